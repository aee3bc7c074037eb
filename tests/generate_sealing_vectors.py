"""Writes tests/vectors/sealing.json: golden bytes of keys, seals and signatures, for Python and C.

`python -m tests.generate_sealing_vectors` writes, `--check` compares and fails where a byte differs. Byte strings are hexadecimal.
"published" holds the answers that the RFCs print; the rest is made by the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sanderling.broker import announcements, sealing
from sanderling.broker.counters import MAX_COUNTER, ReplayWindow
from sanderling.broker.keys import EpochKey, device_pair_key, epoch_key
from sanderling.broker.sealing import Subject
from sanderling.models.errors import ProtocolError

FILE = Path(__file__).parent / "vectors" / "sealing.json"

DEVICE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
COORDINATOR = X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file differs")
    text = as_json(vectors())
    if not parser.parse_args().check:
        FILE.write_text(text)
    elif not FILE.exists() or FILE.read_text() != text:
        print(f"{FILE.name}: not what the code makes; the wire has changed, or run {Path(__file__).name}")
        return 1
    return 0


def as_json(groups: dict[str, list[Any]]) -> str:
    """One case a line."""
    body = ",\n".join(
        f' "{group}": [\n' + ",\n".join(f"  {json.dumps(case)}" for case in cases) + "\n ]"
        for group, cases in groups.items()
    )
    return "{\n" + body + "\n}\n"


def vectors() -> dict[str, list[Any]]:
    return {
        "published": PUBLISHED,
        "keys": [_key_case(key) for key in _keys()],
        "sealed": list(_sealed()),
        "refused": list(_refused()),
        "signed": list(_signed()),
        "signed_refused": list(_signed_refused()),
    }


# --- what the RFCs print ---

_SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
PUBLISHED: list[Any] = [
    {
        "name": "RFC 7748, 5.2, first",
        "kind": "x25519",
        "secret": "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "public": "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "shared": "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    },
    {
        "name": "RFC 7748, 5.2, second",
        "kind": "x25519",
        "secret": "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "public": "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "shared": "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    },
    {
        "name": "RFC 7748, 6.1",
        "kind": "x25519",
        "secret": "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "public": "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "shared": "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    },
    {
        "name": "RFC 8439, 2.8.2",
        "kind": "chacha20-poly1305",
        "key": bytes(range(0x80, 0xA0)).hex(),
        "nonce": "070000004041424344454647",
        "aad": "50515253c0c1c2c3c4c5c6c7",
        "plain": _SUNSCREEN.hex(),
        "sealed": (
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
            "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
            "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
        ),
    },
    {
        "name": "RFC 8032, 7.1, test 1",
        "kind": "ed25519",
        "secret": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "public": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "message": "",
        "signature": (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    },
    {
        "name": "RFC 8032, 7.1, test 2",
        "kind": "ed25519",
        "secret": "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "public": "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "message": "72",
        "signature": (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    },
    {
        "name": "RFC 8032, 7.1, test 3",
        "kind": "ed25519",
        "secret": "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "public": "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "message": "af82",
        "signature": (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    },
]


# --- keys and seals ---


def _keys() -> Iterator[EpochKey]:
    pair = device_pair_key(DEVICE, COORDINATOR.public_key())
    yield epoch_key(pair, federation="watch", device="pi-3", run="k3v9q2ax", epoch=0)
    yield epoch_key(pair, federation="watch", device="pi-3", run="k3v9q2ax", epoch=300)
    yield epoch_key(pair, federation="f" * 64, device="d" * 64, run="r" * 64, epoch=2**32 - 1)


def _key_case(key: EpochKey) -> dict[str, Any]:
    return {
        "device_secret": DEVICE.private_bytes_raw().hex(),
        "device_public": DEVICE.public_key().public_bytes_raw().hex(),
        "coordinator_secret": COORDINATOR.private_bytes_raw().hex(),
        "coordinator_public": COORDINATOR.public_key().public_bytes_raw().hex(),
        "pair_key": device_pair_key(DEVICE, COORDINATOR.public_key()).hex(),
        **_plain(asdict(key)),
    }


def _sealed() -> Iterator[dict[str, Any]]:
    update, evaluation = sealing.Kind.UPDATE, sealing.Kind.EVALUATION
    largest = 2**32 - 1
    about = [
        (0, update, 1, 1, b""),
        (0, update, 3, 300, bytes(range(206))),
        (1, evaluation, 127, 127, b"evaluation"),
        (1, update, 128, 128, b"\0" * 64),
        (1, update, 2**14, 2**14 - 1, b"\xff" * 63),
        (2, update, largest, MAX_COUNTER, bytes(range(256)) * 3),
    ]
    keys = list(_keys())
    for place, kind, number, counter, message in about:
        subject = Subject(kind=kind, round=number, model_hash=bytes(range(32)))
        data = sealing.seal(message, keys[place], subject, counter)
        yield {
            "key": place,
            **_subject(subject),
            "counter": counter,
            "message": message.hex(),
            "data": data.hex(),
        }


def _refused() -> Iterator[dict[str, Any]]:
    """All read with the first key, for this subject, in a window where counter 7 was seen."""
    key, other = list(_keys())[:2]
    subject = Subject(kind=sealing.Kind.UPDATE, round=3, model_hash=bytes(range(32)))
    good = sealing.seal(b"update", key, subject, 300)
    cases = [
        ("empty", b""),
        ("plain", b"\x8b\x01"),
        ("version 2", b"\x20" + good[1:]),
        ("a signature", b"\x11" + good[1:]),
        ("truncated in the header", good[:7]),
        ("truncated in the tag", good[:-1]),
        ("no tag", good[:8] + good[-15:]),
        ("a tag's last bit", good[:-1] + bytes([good[-1] ^ 1])),
        ("a bit of the content", good[:8] + bytes([good[8] ^ 0x80]) + good[9:]),
        ("another counter", good[:1] + b"\xad" + good[2:]),
        ("counter 0", b"\x10\x00" + good[3:]),
        ("a counter longer than it need be", b"\x10\x81\x00" + good[3:]),
        ("a counter over 48 bits", b"\x10" + b"\xff" * 6 + b"\x7f" + good[3:]),
        ("another round", sealing.seal(b"update", key, replace(subject, round=4), 300)),
        ("another model", sealing.seal(b"update", key, replace(subject, model_hash=bytes(32)), 300)),
        ("an evaluation", sealing.seal(b"update", key, replace(subject, kind=sealing.Kind.EVALUATION), 300)),
        ("another codec", sealing.seal(b"update", key, replace(subject, codec=2), 300)),
        ("another epoch", sealing.seal(b"update", other, subject, 300)),
    ]
    for name, data in cases:
        reason = _reason(lambda data=data: sealing.unseal(data, key, subject, ReplayWindow()))
        yield {"name": name, **_subject(subject), "data": data.hex(), "reason": reason}


# --- announcements ---


def _signed() -> Iterator[dict[str, Any]]:
    plan, model = announcements.Kind.PLAN, announcements.Kind.MODEL
    about = [
        ("watch", plan, 1, b""),
        ("watch", plan, 1_700_000_000_000, b"\xac\x00\x01"),
        ("watch", model, 127, bytes(range(111))),
        ("watch", announcements.Kind.NETWORK, 128, bytes(range(256))),
        ("f" * 64, plan, MAX_COUNTER, bytes(range(256)) * 2),
    ]
    for federation, kind, sequence, payload in about:
        data = announcements.sign(payload, SIGNER, federation=federation, kind=kind, sequence=sequence)
        yield {**_announcement(federation, kind), "sequence": sequence, "data": data.hex()}


def _signed_refused() -> Iterator[dict[str, Any]]:
    """All read as a plan of "watch", with 1000 as the newest sequence."""
    plan = announcements.Kind.PLAN

    def signed(federation: str = "watch", kind: announcements.Kind = plan, sequence: int = 1000) -> bytes:
        return announcements.sign(b"plan", SIGNER, federation=federation, kind=kind, sequence=sequence)

    good = signed()
    order = bytes.fromhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
    s = (int.from_bytes(good[39:71], "little") + int.from_bytes(order, "little")).to_bytes(32, "little")
    cases = [
        ("empty", b""),
        ("plain", b"\xac\x00"),
        ("version 2", b"\x21" + good[1:]),
        ("sealed", b"\x10" + good[1:]),
        ("truncated in the signature", good[:70]),
        ("truncated in the payload", good[:-1]),
        ("a byte more", good + b"\0"),
        ("a bit of the payload", good[:-1] + bytes([good[-1] ^ 1])),
        ("a bit of R", good[:7] + bytes([good[7] ^ 1]) + good[8:]),
        ("a bit of S", good[:39] + bytes([good[39] ^ 1]) + good[40:]),
        ("S over the group's order", good[:39] + s + good[71:]),
        ("another sequence", good[:6] + b"\xe9" + good[7:]),
        ("sequence 0", b"\x11" + bytes(6) + good[7:]),
        ("another federation", signed(federation="watch2")),
        ("a model", signed(kind=announcements.Kind.MODEL)),
        ("older", signed(sequence=999)),
    ]
    for name, data in cases:
        reason = _reason(
            lambda data=data: announcements.verify(
                data, SIGNER.public_key(), federation="watch", kind=plan, newest=1000
            )
        )
        yield {"name": name, **_announcement("watch", plan), "data": data.hex(), "reason": reason}


def _announcement(federation: str, kind: announcements.Kind) -> dict[str, Any]:
    return {
        "public": SIGNER.public_key().public_bytes_raw().hex(),
        "federation": federation,
        "kind": int(kind),
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {**_plain(asdict(subject)), "kind": int(subject.kind)}


def _reason(read: Any) -> str:
    try:
        read()
    except ProtocolError as error:
        return error.reason
    raise AssertionError("a case that should be refused was accepted")


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}


if __name__ == "__main__":
    sys.exit(main())
