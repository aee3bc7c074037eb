"""From federation.toml to what each node connects and listens with: certificates, or plain text where that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sanderling.broker.identity import read_identity, tls_files
from sanderling.broker.mqtt_client import TlsFiles
from sanderling.config import FederationConfig
from sanderling.models.errors import UsageError

if TYPE_CHECKING:
    from sanderling.broker.mosquitto import TlsListener

IDENTITY = "identity"  # the folder in a device's state


def device_dir(device_id: str) -> Path:
    """Where a device keeps its state if it is not told."""
    return Path(f"sanderling-{device_id}")


def pki_directory(config: FederationConfig) -> Path:
    """Where `sanderling pki init` puts the federation's certificates."""
    return Path(config.security.directory)


def broker_listener(config: FederationConfig) -> TlsListener | None:
    """What the broker listens with, None in plain text. MissingError without its certificates."""
    if config.security.mode == "plain":
        return None
    from sanderling.broker.run import fleet_listener  # keeps the certificates' library out of an agent

    return fleet_listener(
        pki_directory(config) / "broker",
        federation=config.federation.name,
        host=config.broker.host,
        port=config.broker.port,
    )


def coordinator_tls(config: FederationConfig) -> TlsFiles | None:
    """What the coordinator connects with, None in plain text. MissingError without its certificate."""
    return None if config.security.mode == "plain" else tls_files(pki_directory(config) / "coordinator")


def device_tls(config: FederationConfig, device_id: str, folder: Path) -> TlsFiles | None:
    """What a device connects with, None in plain text. MissingError without its certificate."""
    if config.security.mode == "plain":
        return None
    known = read_identity(folder)
    if (known.federation, known.device_id) != (config.federation.name, device_id):
        raise UsageError(
            f"{folder} is the identity of {known.device_id} in {known.federation}, not of {device_id} in "
            f"{config.federation.name}"
        )
    return tls_files(folder)
