"""Give a device new keys: a token as for enrolment; the device's old certificate is revoked as soon as the token is used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling.commands import membership, options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device."""
    parser.add_argument("device", help="a member of the federation")
    options.add_config(parser)
    membership.add_token_options(parser)
    parser.add_argument("--dir", type=Path, help="with --local: the device's state (default: sanderling-ID)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """A token, or with --local the new identity."""
    return membership.give_token(arguments, console, replaces=True)
