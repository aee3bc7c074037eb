"""Starts a broker: mosquitto where it is installed, else the embedded one. Loopback only unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, Self

from sanderling.broker.mosquitto import Mosquitto, find_mosquitto

BrokerKind = Literal["auto", "mosquitto", "embedded"]


class Broker(Protocol):
    """A broker that runs until stop()."""

    @property
    def kind(self) -> str: ...

    host: str
    port: int

    def stop(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


def start_broker(
    kind: BrokerKind = "auto", *, host: str = "127.0.0.1", port: int = 0, data_dir: Path | None = None
) -> Broker:
    """A broker that takes connections on return. Port 0 takes a free one; see its `port`.

    `data_dir` is where mosquitto keeps sessions and retained messages; the embedded broker keeps nothing.
    Raises MissingError when `kind` is not installed (for "auto": neither is), SanderlingError when it fails.
    """
    if kind == "mosquitto" or (kind == "auto" and find_mosquitto() is not None):
        return Mosquitto(host=host, port=port, data_dir=data_dir)
    from sanderling.broker.embedded import Embedded  # amqtt takes half a second to import

    return Embedded(host=host, port=port)
