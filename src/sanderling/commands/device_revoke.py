"""End a device's membership: its certificate is revoked, and a running broker closes its connection."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.broker.desk import Desk
from sanderling.commands import options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device."""
    parser.add_argument("device")
    options.add_config(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Writes the revocation list."""
    directory = security.pki_directory(options.read_config(arguments))
    with Desk(directory) as desk:
        count = desk.revoke(arguments.device)
    path = directory / pki.BROKER / pki.REVOKED
    return {"device": arguments.device, "revoked": count, "revocation_list": str(path)}, (
        f"{arguments.device}: {count} certificates revoked. A broker that runs on {path.parent} follows by itself; on another "
        f"machine, copy {path} there"
    )
