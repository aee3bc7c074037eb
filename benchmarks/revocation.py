"""How long a revoked device stays connected, and whom else its revocation disturbs. Prints JSON.

N devices hold TLS connections to one mosquitto; then one after the other is revoked, each measured from the change of the registry
to the end of its connection. Afterwards everybody left must answer a ping on the connection they had.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import statistics
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sanderling.broker import pki
from sanderling.broker.run import fleet_listener, start_broker

HOST = "127.0.0.1"
CONNECT = b"\x10\x0d\0\4MQTT\4\2\x02\x58\0\1x"  # MQTT 3.1.1, clean session, keep alive 600 s
PING, PONG = b"\xc0\0", b"\xd0\0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--revoked", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(Path(directory), arguments.devices, arguments.revoked), indent=2))


def measure(directory: Path, devices: int, revoked: int) -> dict[str, object]:
    made = pki.initialise(directory / "pki", federation="bench", hosts=(HOST,), now=pki.utc_now())
    authority = made.authority()
    listener = fleet_listener(made.folder(pki.BROKER), federation="bench", host=HOST, port=0)
    with start_broker("mosquitto", tls=listener) as broker:
        began = time.perf_counter()
        connections = {}
        for number in range(devices):
            name = f"device-{number}"
            serial, context = identity(directory / name, made, authority, name)
            connections[name] = (serial, context, connect(context, broker.port))
        connected_s = time.perf_counter() - began
        lasted, revocations = [], []
        for name in list(connections)[:revoked]:
            serial, context, connection = connections.pop(name)
            began = time.perf_counter()
            revocations.append(pki.Revocation(serial=serial, name=name, at=pki.utc_now()))
            pki.write_revocations(made, authority, revocations, pki.utc_now())
            assert broker.refresh() == (name,)
            assert connection.recv(1) == b""
            lasted.append(time.perf_counter() - began)
            assert not gets_in(context, broker.port)
        alive = sum(answers(connection) for _, _, connection in connections.values())
    return {
        "devices": devices,
        "connecting_all_s": round(connected_s, 2),
        "revoked": revoked,
        "connection_lasted_ms": {
            "median": round(1000 * statistics.median(lasted), 1),
            "most": round(1000 * max(lasted), 1),
        },
        "others": len(connections),
        "others_undisturbed": alive,
    }


def identity(folder: Path, made: pki.Pki, authority: pki.Authority, name: str) -> tuple[int, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.sign_client(key.public_key(), name, pki.utc_now())
    folder.mkdir()
    (folder / "pair.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + pki.private_pem(key))
    context = ssl.create_default_context(cafile=str(made.folder(pki.BROKER) / "ca.pem"))
    context.load_cert_chain(folder / "pair.pem")
    return certificate.serial_number, context


def connect(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    connection = context.wrap_socket(socket.create_connection((HOST, port), 10), server_hostname=HOST)
    connection.sendall(CONNECT)
    assert connection.recv(4) == b"\x20\x02\0\0"
    return connection


def gets_in(context: ssl.SSLContext, port: int) -> bool:
    try:
        connect(context, port).close()
    except (OSError, AssertionError):
        return False
    return True


def answers(connection: ssl.SSLSocket) -> bool:
    try:
        connection.sendall(PING)
        return connection.recv(2) == PONG
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
