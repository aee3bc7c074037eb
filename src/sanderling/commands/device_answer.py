"""On the authority's machine: answer a device's request file, as a file to carry back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.broker.desk import Desk
from sanderling.broker.enrolment import TOKEN_ID_BYTES, EnrolmentError
from sanderling.commands import membership, options
from sanderling.console import Console
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The request, and where the reply goes."""
    parser.add_argument("request", type=Path, metavar="FILE")
    options.add_config(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: ID.reply)")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The same reply whenever the same request is answered again."""
    content = membership.read_file(arguments.request)
    token_id, message = content[:TOKEN_ID_BYTES].hex(), content[TOKEN_ID_BYTES:]
    with Desk(security.pki_directory(options.read_config(arguments))) as desk:
        try:
            reply = desk.answer(token_id, message)
        except EnrolmentError as error:
            raise UsageError(f"{arguments.request} is refused ({error.reason}): {error}") from error
        device = desk.registry.device_of(token_id)
    path: Path = arguments.out or Path(f"{device}.reply")
    pki.write_file(path, reply)
    return {"device": device, "reply": str(path)}, (
        f"{device} is enrolled; wrote {path}, nothing in it is secret. On the device: sanderling device accept "
        f"{path.name} --device {device}"
    )
