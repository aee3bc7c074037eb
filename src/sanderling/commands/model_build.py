"""Build a model of the zoo from its data: pre-train in torch, quantise to int8, export, and print its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling.console import Console
from sanderling.models import datasets, zoo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its data, and where to put it."""
    parser.add_argument("name", help=f"one of {', '.join(zoo.NAMES)}")
    parser.add_argument("--out", type=Path, default=Path("sanderling-models"), help="folder for the files")
    parser.add_argument(
        "--data", type=Path, help="your own data, a file or folder (default: what a package brings)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of initial weights and training (default: 1)")
    parser.add_argument(
        "--prune", type=float, default=0.0, metavar="SHARE", help="share of channels to take out"
    )
    parser.add_argument(
        "--quantization-aware", action="store_true", help="train on with rounded weights and activations"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Needs torch: the extra `train`."""
    card = zoo.build(
        arguments.name,
        arguments.out,
        data=None if arguments.data is None else datasets.load("folder", path=arguments.data),
        seed=arguments.seed,
        prune=arguments.prune,
        quantization_aware=arguments.quantization_aware,
        progress=console.progress,
    )
    return card, f"{zoo.render_card(card)}\nwrote {arguments.out}"
