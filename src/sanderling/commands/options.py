"""Options that several commands share."""

from __future__ import annotations

import argparse
import re
import signal
import threading
from pathlib import Path

from sanderling import config_file
from sanderling.config import FederationConfig
from sanderling.models.errors import UsageError

DEFAULT_FILE = Path("federation.toml")
UNITS = {"": 1, "B": 1, "KB": 1024, "KIB": 1024, "MB": 1024**2, "MIB": 1024**2}


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config and -c."""
    parser.add_argument(
        "--config", type=Path, help="the federation's file (default: federation.toml where there is one)"
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """-c section.key=value."""
    parser.add_argument(
        "-c",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting",
    )


def read_config(arguments: argparse.Namespace) -> FederationConfig:
    """The settings that --config and -c name."""
    path: Path | None = arguments.config
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    return config_file.load(path, arguments.overrides)


def stop_on_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that a service leaves cleanly."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def positive_seconds(text: str) -> float:
    """A number of seconds above zero."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"expected a number of seconds above 0, came {text!r}")
    return seconds


def byte_count(text: str) -> int:
    """A positive number of bytes, as 65536, 64KB or 1MB; a KB is 1,024 bytes."""
    match = re.fullmatch(r"(\d{1,12})\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or int(match[1]) == 0:
        raise UsageError(f"expected a size as 65536, 64KB or 1MB, came {text!r}")
    return int(match[1]) * UNITS[match[2].upper()]
