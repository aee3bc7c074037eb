"""Whether a model fits a microcontroller board, before anything is flashed; names the layer at fault when it does not."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sanderling.commands import options
from sanderling.console import Console
from sanderling.firmware_export import boards
from sanderling.firmware_export.errors import FitError
from sanderling.firmware_export.fit import FitReport, HeadTraining, Memory, fit, render
from sanderling.models import importers, zoo
from sanderling.models.network import Network

DEFAULT = HeadTraining()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the board, and what is trained."""
    parser.add_argument("model", help="a model of the zoo, or a .tflite, .onnx or .sanderling file")
    parser.add_argument("--board", required=True, help=f"one of {', '.join(boards.BOARDS)}")
    parser.add_argument(
        "--sram", type=options.byte_count, help="the SRAM there is for it, as 64KB (default: the board's)"
    )
    parser.add_argument(
        "--flash", type=options.byte_count, help="the flash there is for it (default: the board's)"
    )
    parser.add_argument(
        "--tail", choices=("head", "none"), default="head", help="what the device trains (default: head)"
    )
    parser.add_argument("--cache", type=int, default=DEFAULT.cache_examples, help="examples held to train on")
    parser.add_argument("--batch", type=int, default=DEFAULT.batch_size, help="examples of a step")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The report; FitError, after the same report, when the model does not fit."""
    board = boards.board(arguments.board)
    board = replace(
        board,
        sram_bytes=arguments.sram or board.sram_bytes,
        flash_bytes=arguments.flash or board.flash_bytes,
    )
    training = (
        HeadTraining(cache_examples=arguments.cache, batch_size=arguments.batch)
        if arguments.tail == "head"
        else None
    )
    report = fit(_network(arguments.model), board, training=training)
    if not report.fits:
        console.progress(render(report) + "\n")
        raise FitError(report.network, board.name, report.faults)
    return _plain(report), render(report)


def _network(source: str) -> Network:
    if Path(source).suffix.lower() in (".tflite", ".onnx"):
        return importers.load(source)
    return zoo.package(source).network


def _plain(report: FitReport) -> dict[str, Any]:
    return {
        "network": report.network,
        "board": asdict(report.board),
        "flash": _plain_memory(report.flash),
        "sram": _plain_memory(report.sram),
        "multiply_accumulates": report.cost.multiply_accumulates,
        "layers": [asdict(layer) for layer in report.cost.layers],
        "fits": report.fits,
    }


def _plain_memory(memory: Memory) -> dict[str, Any]:
    return {
        "items": [asdict(item) for item in memory.items],
        "used_bytes": memory.used_bytes,
        "available_bytes": memory.available_bytes,
        "free_bytes": memory.free_bytes,
    }
