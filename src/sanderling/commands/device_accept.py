"""On a device without a network: take the authority's reply, and be enrolled."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker import enrolment
from sanderling.broker.enrolment import EnrolmentError
from sanderling.commands import membership
from sanderling.console import Console
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The reply, and whose it is."""
    parser.add_argument("reply", type=Path, metavar="FILE")
    parser.add_argument("--device", metavar="ID", help="which device this is; or --dir")
    parser.add_argument("--dir", type=Path, help="the device's state (default: sanderling-ID)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The identity in the device's state."""
    if arguments.dir is None and arguments.device is None:
        raise UsageError("expected --device ID or --dir DIR")
    folder = (arguments.dir or security.device_dir(arguments.device)) / security.IDENTITY
    try:
        identity = enrolment.accept(folder, membership.read_file(arguments.reply))
    except EnrolmentError as error:
        raise UsageError(f"{arguments.reply} is refused ({error.reason}): {error}") from error
    return membership.enrolled(identity)
