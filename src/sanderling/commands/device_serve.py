"""Answer devices that enrol with their tokens, on a listener of its own; until it is stopped."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.broker.desk import Desk
from sanderling.broker.enrolment_service import EnrolmentService
from sanderling.commands import options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it listens."""
    options.add_config(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="address to listen on (default: broker.host)")
    parser.add_argument(
        "--until-done", action="store_true", help="leave when no token is open any more: all used, or expired"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT, or with --until-done the last token's end."""
    config = options.read_config(arguments)
    stop = options.stop_on_signal()
    with Desk(security.pki_directory(config)) as desk:
        service = EnrolmentService(
            desk,
            security.pki_directory(config),
            config.federation.name,
            arguments.host or config.broker.host,
            config.security.enrolment_port,
            console.progress,
        )
        service.run(stop, until=lambda: arguments.until_done and not desk.registry.open_tokens(pki.utc_now()))
        members = desk.registry.members(pki.utc_now())
    return {
        "members": sorted(members),
        "refused": dict(service.refused),
    }, f"{len(members)} devices are enrolled"
