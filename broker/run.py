"""Starts a broker: mosquitto where it is installed, else the embedded one; with TLS, or in plain text on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, Self

from sanderling.broker import acl
from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY, require
from sanderling.broker.mosquitto import Mosquitto, PlainListener, TlsListener, find_mosquitto
from sanderling.broker.pki import REVOKED

BrokerKind = Literal["auto", "mosquitto", "embedded"]


class Broker(Protocol):
    """A broker that runs until stop()."""

    @property
    def kind(self) -> str: ...

    host: str
    port: int

    def refresh(self) -> tuple[str, ...]: ...
    def stop(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


def start_broker(
    kind: BrokerKind = "auto",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data_dir: Path | None = None,
    tls: TlsListener | None = None,
) -> Broker:
    """A broker that takes connections on return. Port 0 takes a free one; see its `port`.

    `data_dir` is where mosquitto keeps sessions and retained messages; the embedded broker keeps nothing. With `tls` it
    listens there, and `host` and `port` do not matter. Raises MissingError when `kind` is not installed (for "auto":
    neither is), SanderlingError when it fails.
    """
    if kind == "mosquitto" or (kind == "auto" and find_mosquitto() is not None):
        return Mosquitto(tls or PlainListener(host=host, port=port), data_dir=data_dir)
    from sanderling.broker.embedded import Embedded  # amqtt takes half a second to import

    return Embedded(host=host, port=port, tls=tls)


def fleet_listener(folder: Path, *, federation: str, host: str, port: int) -> TlsListener:
    """The listener of devices and coordinator, from the `broker` folder of broker/pki.py. MissingError when it is not there."""
    return TlsListener(
        host=host,
        port=port,
        certificate=require(folder / CERTIFICATE).resolve(),
        key=require(folder / KEY).resolve(),
        authority=require(folder / CA_CERTIFICATE).resolve(),
        revoked=require(folder / REVOKED).resolve(),
        rules=acl.fleet(federation),
    )
