"""What the `device` commands share: tokens in files, and identities made on the spot."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker import enrolment, pki
from sanderling.broker.desk import Desk, Reach
from sanderling.broker.enrolment import Token
from sanderling.broker.identity import CERTIFICATE, Identity
from sanderling.commands import options
from sanderling.config import FederationConfig
from sanderling.console import Console
from sanderling.models.errors import UsageError

VALID_S = 3600
_MAX_FILE_BYTES = 1 << 16


def add_token_options(parser: argparse.ArgumentParser) -> None:
    """How a token is made."""
    group = parser.add_argument_group("on the authority's machine")
    group.add_argument(
        "--out", type=Path, metavar="FILE", help="where the token goes (default: ID.token); it is a secret"
    )
    group.add_argument(
        "--host", metavar="NAME", help="where devices reach `sanderling device serve` (default: link.host)"
    )
    group.add_argument(
        "--valid",
        type=int,
        default=VALID_S,
        metavar="S",
        help=f"seconds until it expires (default: {VALID_S})",
    )
    group.add_argument(
        "--local",
        action="store_true",
        help="no token: make the device's identity here, in --dir, for a device of this machine",
    )


def give_token(
    arguments: argparse.Namespace, console: Console, *, replaces: bool
) -> tuple[dict[str, Any], str]:
    """A file with a token for `arguments.device`; with --local its identity."""
    config = options.read_config(arguments)
    if arguments.valid <= 0:
        raise UsageError(f"--valid: expected a number of seconds above 0, came {arguments.valid}")
    with Desk(security.pki_directory(config)) as desk:
        if arguments.local:
            folder = (arguments.dir or security.device_dir(arguments.device)) / security.IDENTITY
            return enrolled(enrol_here(desk, config, arguments.device, folder, replaces=replaces))
        path: Path = arguments.out or Path(f"{arguments.device}.token")
        if path.exists():
            raise UsageError(f"{path} is there already; remove it, or name another file with --out")
        token = desk.invite(
            config.federation.name,
            arguments.device,
            Reach(
                host=arguments.host or config.link.host,
                port=config.security.enrolment_port,
                valid_s=arguments.valid,
            ),
            replaces=replaces,
        )
        pki.write_secret(path, token.text().encode() + b"\n")
    result = {"device": token.device_id, "token_file": str(path), "expires": token.expires}
    return result, (
        f"wrote {path}, good for one use within {arguments.valid} s. Whoever has it can enrol as {token.device_id}: take it "
        f"there by a way you trust.\non the device:  sanderling device enroll --token {path.name}\n"
        "meanwhile here: sanderling device serve"
    )


def enrol_here(
    desk: Desk, config: FederationConfig, device_id: str, folder: Path, *, replaces: bool = False
) -> Identity:
    """Both sides of an enrolment in this process: nothing crosses a network."""
    reach = Reach(host="localhost", port=config.security.enrolment_port, valid_s=VALID_S)
    token = desk.invite(config.federation.name, device_id, reach, replaces=replaces)
    return enrolment.accept(folder, desk.answer(token.id, enrolment.begin(folder, token, os.urandom)))


def enrolled(identity: Identity) -> tuple[dict[str, Any], str]:
    """What a device is told when it is a member."""
    certificate = pki.read_certificate(identity.folder / CERTIFICATE)
    until = certificate.not_valid_after_utc
    result = {
        "device": identity.device_id,
        "federation": identity.federation,
        "identity": str(identity.folder),
        "serial": f"{certificate.serial_number:x}",
        "until": until.isoformat(),
    }
    return (
        result,
        f"{identity.device_id} is enrolled in {identity.federation} until {until:%Y-%m-%d}: {identity.folder}",
    )


def read_token(path: Path) -> Token:
    return Token.parse(read_file(path).decode("ascii", errors="replace"))


def read_file(path: Path) -> bytes:
    """UsageError when it cannot be read, or is far too long to be one of ours."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise UsageError(
            f"{path}: expected a file of `sanderling device`, came more than {_MAX_FILE_BYTES} bytes"
        )
    return content
