"""Run a whole federation on this machine: a broker, a coordinator and seven devices, each a process of its own.

Seven people's smart watches learn to tell seven physiotherapy exercises apart; an int8 network pre-trained on three
other people is on every device, and its last layer learns. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from sanderling.commands import options
from sanderling.console import Console
from sanderling.coordinator.tracking import local_uri
from sanderling.demo import federation, report
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Seed, directory, overrides."""
    parser.add_argument("--seed", type=int, default=1, help="decides training and selection (default: 1)")
    parser.add_argument(
        "--dir", type=Path, help="where to put everything (default: a new sanderling-demo-… here)"
    )
    options.add_overrides(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Runs it, writes report.html, stops all it started."""
    if arguments.seed < 0:
        raise UsageError(f"--seed: expected 0 or more, came {arguments.seed}")
    directory: Path = arguments.dir or Path(time.strftime("sanderling-demo-%Y%m%d-%H%M%S"))
    if directory.exists():
        raise UsageError(f"{directory} is there already; name a new directory with --dir")
    config = federation.settings(arguments.overrides, arguments.seed, directory)
    console.progress(f"writing to {directory}")
    outcome, compared = federation.run(config, directory, console)
    shown = federation.result(config, outcome, compared)
    uri = (config.tracking.uri or local_uri(directory)) if config.tracking.mlflow else None
    page = directory / "report.html"
    page.write_text(report.render(shown, compared, uri), encoding="utf-8")
    shown |= {"directory": str(directory), "report": str(page), "mlflow_uri": uri}
    return shown, f"\n{federation.table(shown)}\n\nreport: {page}\nmodel:  {shown['model_hash']}"
