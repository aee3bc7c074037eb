"""Run a device's agent: it waits for rounds, trains on its own examples, and sends small updates; until it is stopped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import data_source, security
from sanderling.commands import options
from sanderling.config import FederationConfig
from sanderling.console import Console
from sanderling.edge_runtime import service
from sanderling.edge_runtime.budget import RoundBudget
from sanderling.edge_runtime.byte_budget import ByteBudget
from sanderling.edge_runtime.publish_policy import Rules
from sanderling.edge_runtime.sources import SourceSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device this is, and where it keeps its state."""
    options.add_config(parser)
    parser.add_argument("--device", required=True, metavar="ID", help="this device's name in the federation")
    parser.add_argument(
        "--client", metavar="NAME", help="whose examples of the data set are its own (default: ID)"
    )
    parser.add_argument("--dir", type=Path, help="where the device keeps its state (default: sanderling-ID)")
    parser.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="where its certificate is (default: identity in its state)",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "reference", "native", "litert", "onnxruntime", "tflite"),
        default="auto",
        help="what runs the frozen part where the plan asks for fast arithmetic",
    )
    budget = parser.add_argument_group(
        "budget of a round's training", "what does not fit is trained less, or not at all"
    )
    budget.add_argument("--seconds", type=float, help="time")
    budget.add_argument("--energy-mj", type=float, help="energy, by the board's published power")
    budget.add_argument("--steps", type=int, help="gradient steps")
    metered = parser.add_argument_group(
        "a metered link", "instead of what [publish] in the federation's file says; never exceeded"
    )
    metered.add_argument(
        "--bytes-per-day", type=options.byte_count, metavar="SIZE", help="as 200KB; both ways"
    )
    metered.add_argument("--bytes-per-round", type=options.byte_count, metavar="SIZE")
    metered.add_argument("--least-battery", type=float, metavar="SHARE", help="of charge, 0 to 1")
    parser.add_argument(
        "--exit-when-finished", action="store_true", help="leave when the federation is finished"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT, or the federation's end with --exit-when-finished."""
    config = options.read_config(arguments)
    name, choices = data_source.data_options(config)
    state: Path = arguments.dir or security.device_dir(arguments.device)
    settings = service.AgentSettings(
        federation=config.federation.name,
        device_id=arguments.device,
        host=config.link.host,
        port=config.link.port,
        state_dir=state,
        source=SourceSettings(name=name, client=arguments.client or arguments.device, options=choices),
        backend=arguments.backend,
        capacity=config.training.capacity,
        exit_when_finished=arguments.exit_when_finished,
        keepalive_s=config.link.keepalive_s,
        budget=_budget(arguments),
        bytes=_bytes(arguments, config),
        rules=_rules(arguments, config),
        tls=security.device_tls(config, arguments.device, arguments.identity or state / security.IDENTITY),
    )
    service.run(settings, options.stop_on_signal(), console.progress)
    return {"device": arguments.device, "federation": config.federation.name}, f"{arguments.device} left"


def _budget(arguments: argparse.Namespace) -> RoundBudget | None:
    budget = RoundBudget(seconds=arguments.seconds, energy_mj=arguments.energy_mj, steps=arguments.steps)
    return None if budget == RoundBudget() else budget


def _bytes(arguments: argparse.Namespace, config: FederationConfig) -> ByteBudget | None:
    budget = ByteBudget(
        per_day=arguments.bytes_per_day or config.publish.bytes_per_day or None,
        per_round=arguments.bytes_per_round or config.publish.bytes_per_round or None,
    )
    return None if budget == ByteBudget() else budget


def _rules(arguments: argparse.Namespace, config: FederationConfig) -> Rules | None:
    """None where nothing may hold an update back."""
    publish = config.publish
    battery = publish.least_battery if arguments.least_battery is None else arguments.least_battery
    rules = Rules(
        least_battery=battery,
        least_change=publish.least_change,
        private=config.privacy.mode != "none",
        aligned=config.update.mode == "mask",
    )
    wanted = publish.adaptive or _bytes(arguments, config) or rules.least_battery or rules.least_change
    return rules if wanted else None
