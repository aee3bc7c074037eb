"""On a device without a network: make a request with a token, as a file to carry to the authority's machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker import enrolment, pki
from sanderling.commands import membership
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The token, and where the request goes."""
    parser.add_argument("--token", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dir", type=Path, help="the device's state (default: sanderling-ID)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: ID.request)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The same request whenever it is asked again."""
    token = membership.read_token(arguments.token)
    folder = (arguments.dir or security.device_dir(token.device_id)) / security.IDENTITY
    path: Path = arguments.out or Path(f"{token.device_id}.request")
    pki.write_file(path, bytes.fromhex(token.id) + enrolment.begin(folder, token, os.urandom))
    return {"device": token.device_id, "request": str(path)}, (
        f"wrote {path}; nothing in it is secret. On the authority's machine: sanderling device answer {path.name}"
    )
