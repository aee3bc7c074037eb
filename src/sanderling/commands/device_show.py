"""Show a device's certificates, the newest last, and the fingerprint of its key for sealing."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

from sanderling import security
from sanderling.broker.desk import Desk
from sanderling.broker.registry import Issued
from sanderling.commands import options
from sanderling.console import Console
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device."""
    parser.add_argument("device")
    options.add_config(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """What the registry knows of it."""
    with Desk(security.pki_directory(options.read_config(arguments))) as desk:
        certificates = desk.registry.certificates(arguments.device)
    if not certificates:
        raise UsageError(f"no device {arguments.device!r} was enrolled; `sanderling device list` names them")
    shown = [_shown(one) for one in certificates]
    lines = [
        f"{row['serial']}  {row['issued'][:10]} to {row['expires'][:10]}  {row['state']}\n"
        f"  certificate {row['certificate_sha256']}\n  agreement   {row['agreement_key_sha256']}"
        for row in shown
    ]
    return {"device": arguments.device, "certificates": shown}, "\n".join(lines)


def _shown(one: Issued) -> dict[str, str]:
    if one.revoked is None:
        state = "good"
    else:
        state = f"{'superseded' if one.superseded else 'revoked'} {one.revoked.isoformat()[:19]}"
    return {
        "serial": f"{one.serial:x}",
        "issued": one.issued.isoformat(),
        "expires": one.expires.isoformat(),
        "state": state,
        "certificate_sha256": hashlib.sha256(one.certificate).hexdigest(),
        "agreement_key_sha256": hashlib.sha256(one.agreement_key).hexdigest(),
    }
