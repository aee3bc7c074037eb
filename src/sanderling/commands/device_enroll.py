"""Enrol a device: on the authority's machine make its one-time token; on the device, with that token, get a certificate.

With --local both happen here, for a device of this machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker.enrolment_service import enrol
from sanderling.commands import membership, options
from sanderling.console import Console
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which side this is."""
    parser.add_argument("device", nargs="?", help="a token for this device (on the authority's machine)")
    options.add_config(parser)
    membership.add_token_options(parser)
    device = parser.add_argument_group("on the device")
    device.add_argument("--token", type=Path, metavar="FILE", help="enrol with this token")
    device.add_argument(
        "--dir", type=Path, help="the device's state (default: sanderling-ID); its identity goes there"
    )
    device.add_argument(
        "--timeout",
        type=options.positive_seconds,
        default=60.0,
        metavar="S",
        help="to wait for an answer (default: 60)",
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """A token, or an identity."""
    if (arguments.device is None) == (arguments.token is None):
        raise UsageError("expected either a device, to make its token, or --token FILE, to use one")
    if arguments.token is None:
        return membership.give_token(arguments, console, replaces=False)
    token = membership.read_token(arguments.token)
    folder = (arguments.dir or security.device_dir(token.device_id)) / security.IDENTITY
    identity = enrol(
        token, folder, timeout_s=arguments.timeout, log=console.progress, stop=options.stop_on_signal()
    )
    return membership.enrolled(identity)
