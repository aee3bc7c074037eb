"""Compute a run's final model again from its ledger: the accepted reports through the pure core, nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import assembly, config_file
from sanderling.console import Console
from sanderling.coordinator.ledger import FILE_NAME, Ledger
from sanderling.coordinator.replay import replay
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's directory."""
    parser.add_argument("directory", type=Path, help="the directory of a run (coordinator run --dir)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Fails at the first round whose model is not the recorded one."""
    directory: Path = arguments.directory
    if not (directory / FILE_NAME).exists():
        raise UsageError(
            f"{directory} holds no ledger; expected the directory of a run, with {FILE_NAME} in it"
        )
    ledger = Ledger(directory)
    try:
        stored = ledger.run()
        if stored is None:
            raise UsageError(f"the ledger in {directory} is empty")
        config = config_file.parse(stored.config, f"settings of run {stored.id}")
        result = replay(assembly.coordinator_settings(config), ledger)
    finally:
        ledger.close()
    return (
        {
            "run": stored.id,
            "rounds": result.rounds,
            "reports": result.reports,
            "final": result.final,
            "model_hash": result.model_hash.hex(),
        },
        f"run {stored.id}: {result.rounds} rounds and {result.reports} reports give model {result.model_hash.hex()}",
    )
