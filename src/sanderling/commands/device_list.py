"""List the devices of a federation: which are enrolled and until when, which were revoked, which have an open token."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.broker.desk import Desk
from sanderling.commands import options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The federation's file."""
    options.add_config(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """One line a device."""
    now = pki.utc_now()
    with Desk(security.pki_directory(options.read_config(arguments))) as desk:
        newest = {one.device_id: one for one in desk.registry.certificates()}
        waiting = dict(desk.registry.open_tokens(now))
    devices = []
    for name in sorted({*newest, *waiting}):
        one = newest.get(name)
        if one is None:
            state = "invited"
        elif one.revoked is not None:
            state = "revoked"
        else:
            state = "enrolled" if one.expires > now else "expired"
        devices.append(
            {
                "device": name,
                "state": state,
                "until": None if one is None else one.expires.isoformat(),
                "token_until": waiting[name].isoformat() if name in waiting else None,
            }
        )
    lines = [
        f"{row['device']:<24} {row['state']:<9} {str(row['until'] or '')[:10]:<11}"
        + (f"token open until {row['token_until']}" if row["token_until"] else "")
        for row in devices
    ]
    return {"devices": devices}, "\n".join(line.rstrip() for line in lines) or "no device is enrolled"
