"""Run a microcontroller's node on the bench: its firmware is built, booted in QEMU, fed with a device's windows, and joined."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import assembly, data_source, security
from sanderling.commands import options
from sanderling.console import Console
from sanderling.edge_runtime.sources import SourceSettings, read_source
from sanderling.firmware_export.targets import EMULATED, target
from sanderling.hil import node
from sanderling.models.errors import SanderlingError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, and which device of the federation it is."""
    options.add_config(parser)
    parser.add_argument(
        "--target", required=True, help=f"the emulated board: {', '.join(each.name for each in EMULATED)}"
    )
    parser.add_argument("--device", required=True, metavar="ID", help="the node's name in the federation")
    parser.add_argument(
        "--client", metavar="NAME", help="whose examples of the data set are its own (default: ID)"
    )
    parser.add_argument(
        "--dir", type=Path, help="where its identity, firmware and storage are (default: sanderling-ID)"
    )
    parser.add_argument(
        "--exit-when-finished", action="store_true", help="leave when the federation is finished"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT, or the federation's end with --exit-when-finished."""
    config = options.read_config(arguments)
    board = target(arguments.target)
    if board.emulated_memory is None:
        names = ", ".join(each.name for each in EMULATED)
        raise UsageError(f"QEMU does not emulate {board.name}; expected one of {names}")
    name, choices = data_source.data_options(config)
    source = read_source(
        SourceSettings(name=name, client=arguments.client or arguments.device, options=choices)
    )
    directory = (arguments.dir or Path(f"sanderling-{arguments.device}")).resolve()
    tls = security.device_tls(config, arguments.device, directory / security.IDENTITY)
    console.progress(f"building the firmware of {arguments.device} for {board.name}")
    package = assembly.starting_point(config).package
    program = node.build(package, board, directory, source, config.training.capacity)
    settings = node.NodeSettings(
        federation=config.federation.name,
        device_id=arguments.device,
        directory=directory,
        host=config.link.host,
        port=config.link.port,
        exit_when_finished=arguments.exit_when_finished,
        tls=tls,
    )
    outcome = node.run(program, board, settings, source, options.stop_on_signal(), console.progress)
    if outcome.status not in (None, 0):
        raise SanderlingError(f"the node ended with status {outcome.status}: {' | '.join(outcome.log[-5:])}")
    result = {
        "device": arguments.device,
        "target": board.name,
        "flash_bytes": program.flash_bytes,
        "sram_bytes": program.sram_bytes,
        "line": outcome.line,
        "log": list(outcome.log),
    }
    return result, f"{arguments.device} on {board.name} left"
