"""Connect boards without a network to the broker, each over a serial line that may lose bytes; until it is stopped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling.broker.identity import tls_files
from sanderling.commands import options
from sanderling.console import Console
from sanderling.edge_runtime import gateway
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which lines, and which broker."""
    parser.add_argument(
        "--port",
        action="append",
        required=True,
        metavar="LINE",
        help="a board's line: /dev/ttyACM0, a pseudo-terminal, or tcp://host:port; may be given several times",
    )
    parser.add_argument("--baud", type=int, default=115200, help="of serial devices (default: 115200)")
    parser.add_argument(
        "--broker", default="127.0.0.1:8883", metavar="HOST:PORT", help="(default: 127.0.0.1:8883)"
    )
    parser.add_argument(
        "--identity",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="the folder with the certificate of a line's board, as `sanderling device enroll` makes it; one for each --port, "
        "in their order",
    )
    parser.add_argument("--plain", action="store_true", help="no TLS: a broker with security.mode = plain")


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT; the figures of each line."""
    host, port = _broker(arguments.broker)
    if arguments.baud <= 0:
        raise UsageError(f"expected a positive number of bits a second, came {arguments.baud}")
    if bool(arguments.identity) == arguments.plain:
        raise UsageError("expected an --identity for each --port, or --plain")
    settings = gateway.GatewaySettings(
        lines=tuple(arguments.port),
        baud=arguments.baud,
        host=host,
        port=port,
        identities=tuple(tls_files(folder) for folder in arguments.identity),
    )
    lines = gateway.run(settings, options.stop_on_signal(), console.progress)
    text = "\n".join(
        f"{line['line']}: {line['sessions']} sessions, up {line['bytes_up']:,} B, down {line['bytes_down']:,} B, "
        f"{line['damaged']} frames damaged, {line['repeated']} sent again"
        for line in lines
    )
    return {"lines": lines}, text


def _broker(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"expected a broker as host:port, came {text!r:.80}")
    return host.removeprefix("[").removesuffix("]"), int(port)
