"""Build a model of the zoo from its data: pre-train in torch, quantise to int8, export, and print its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling.console import Console
from sanderling.models import zoo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and where to put it."""
    parser.add_argument("name", help="a model of the zoo, see `sanderling model list`")
    parser.add_argument("--out", type=Path, default=Path("sanderling-models"), help="folder for the files")
    parser.add_argument("--seed", type=int, default=1, help="of initial weights and training (default: 1)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Needs torch: the extra `train`."""
    card = zoo.build(arguments.name, arguments.out, seed=arguments.seed, progress=console.progress)
    return card, f"{zoo.render_card(card)}\nwrote {arguments.out}"
