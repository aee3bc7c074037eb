"""List the models of the zoo, with what their cards say."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling.console import Console
from sanderling.models import zoo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Reads the shipped cards."""
    cards = {name: zoo.load(name).card for name in zoo.shipped()}
    return {"models": cards}, "\n\n".join(zoo.render_card(card) for card in cards.values())
