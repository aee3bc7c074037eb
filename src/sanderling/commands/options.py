"""Options that several commands share."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from sanderling import config_file
from sanderling.config import FederationConfig
from sanderling.models.errors import UsageError

DEFAULT_FILE = Path("federation.toml")


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
