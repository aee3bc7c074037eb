"""Give the broker, the coordinator or the enrolment listener a new key and certificate, and revoke the old one."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.broker.desk import Desk
from sanderling.broker.identity import CERTIFICATE
from sanderling.commands import options
from sanderling.console import Console

ADVICE = {
    pki.BROKER: "a broker that runs on this folder takes it by itself",
    pki.COORDINATOR: "start the coordinator again",
    pki.ENROLMENT: "start `sanderling device serve` again; tokens given before do not fit it any more",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose, and under which names."""
    parser.add_argument("role", choices=tuple(ADVICE))
    options.add_config(parser)
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="the broker's names from now on (default: as before)",
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Writes the new pair and the revocation list."""
    directory = security.pki_directory(options.read_config(arguments))
    with Desk(directory) as desk:
        desk.rotate(arguments.role, arguments.host)
    certificate = pki.read_certificate(directory / arguments.role / CERTIFICATE)
    until = certificate.not_valid_after_utc
    result = {"role": arguments.role, "serial": f"{certificate.serial_number:x}", "until": until.isoformat()}
    return result, f"{arguments.role}: new certificate until {until:%Y-%m-%d}; {ADVICE[arguments.role]}"
