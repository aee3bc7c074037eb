"""Run the rounds of a federation beside its broker, until the last one; start it again after a stop and it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import assembly, config_file, outcome, security
from sanderling.commands import options
from sanderling.config import FederationConfig
from sanderling.console import Console
from sanderling.coordinator.ledger import FILE_NAME, Ledger
from sanderling.coordinator.service import Coordinator, ServiceSettings, Start
from sanderling.coordinator.tracking import NoTracker, Tracker, local_uri, start_mlflow

MLFLOW_RUN = "mlflow-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's directory."""
    options.add_config(parser)
    parser.add_argument(
        "--dir", type=Path, default=Path("sanderling-run"), help="the run's ledger; a run in it goes on"
    )
    parser.add_argument(
        "--connect-timeout",
        type=options.positive_seconds,
        default=30.0,
        metavar="S",
        help="seconds to wait for the broker at the start (default: 30)",
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until the federation is finished, or SIGTERM or SIGINT."""
    directory: Path = arguments.dir
    config = settings_of(directory, options.read_config(arguments), console)
    stop = options.stop_on_signal()
    start = assembly.starting_point(config)
    tracker = _tracker(config, start, directory)
    coordinator = Coordinator(
        assembly.coordinator_settings(config),
        ServiceSettings(
            directory=directory,
            host=config.link.host,
            port=config.link.port,
            keepalive_s=config.link.keepalive_s,
            max_packet_bytes=config.link.max_packet_bytes,
            connect_timeout_s=arguments.connect_timeout,
            tls=security.coordinator_tls(config),
        ),
        Start(config=config_file.render(config), network=start.package_bytes, model=start.model),
        tracker,
        console.progress,
        stop,
    )
    finished = coordinator.run()
    result = outcome.of_run(directory)
    if finished:
        tracker.finish(outcome.last_figures(result), {"model_hash": result["model_hash"]}, None)
    return result, outcome.as_text(result, directory)


def settings_of(directory: Path, config: FederationConfig, console: Console) -> FederationConfig:
    """A run that goes on keeps the settings it was started with, except for where the broker is."""
    if not (directory / FILE_NAME).exists():
        return config
    ledger = Ledger(directory)
    try:
        stored = ledger.run()
    finally:
        ledger.close()
    if stored is None:
        return config
    kept = config_file.parse(stored.config, f"settings of run {stored.id}")
    if config_file.differing_sections(kept, config) - {"link", "broker", "security", "tracking"}:
        console.progress(
            f"run {stored.id} goes on with the settings it was started with; a new --dir starts a new run"
        )
    return config_file.with_link(kept, config)


def _tracker(config: FederationConfig, start: assembly.StartingPoint, directory: Path) -> Tracker:
    if not config.tracking.mlflow:
        return NoTracker()
    parameters = {
        f"{section}.{key}": value
        for section, table in config_file.as_plain(config).items()
        for key, value in table.items()
    }
    parameters["network_hash"] = start.model.backbone_hash.hex()
    parameters["initial_model_hash"] = start.model.model_hash.hex()
    directory.mkdir(parents=True, exist_ok=True)
    known = directory / MLFLOW_RUN  # a coordinator that starts again goes on with its MLflow run
    tracker = start_mlflow(
        config.tracking.uri or local_uri(directory),
        config.tracking.experiment,
        config.federation.name,
        parameters,
        directory,
        known.read_text(encoding="utf-8") if known.exists() else None,
    )
    known.write_text(tracker.run_id, encoding="utf-8")
    return tracker
