"""Writes the golden vectors in tests/vectors, which Python and C both read. `--check` compares instead.

Each file is made by the reference alone, from seeds written here; a change in one is a change of the wire.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sanderling.broker import codec
from sanderling.broker import messages as m
from sanderling.broker.chunks import cut
from sanderling.broker.errors import CodecError, MessageError
from sanderling.broker.topics import Topics
from sanderling.models.updates import GlobalModel, QuantizedUpdate

FOLDER = Path(__file__).parent / "vectors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    check = parser.parse_args().check
    stale = []
    for name, make in VECTORS.items():
        path, text = FOLDER / name, _as_json(make())
        if check:
            stale += [name] * (not path.exists() or path.read_text() != text)
        else:
            path.write_text(text)
    if stale:
        print(
            f"{', '.join(stale)}: not what the code makes; the wire has changed, or run {Path(__file__).name}"
        )
    return int(bool(stale))


def _as_json(groups: dict[str, list[Any]]) -> str:
    """One case a line."""
    body = ",\n".join(
        f' "{group}": [\n' + ",\n".join(f"  {json.dumps(case)}" for case in cases) + "\n ]"
        for group, cases in groups.items()
    )
    return "{\n" + body + "\n}\n"


# --- update codec ---


def codec_vectors() -> dict[str, list[Any]]:
    return {"accepted": list(_accepted_updates()), "refused": list(_refused_updates())}


def _accepted_updates() -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    everywhere = list(range(100))
    cases: list[tuple[str, int, list[int], list[int]]] = [
        ("no coordinates", 10, [], []),
        ("one of one", 1, [0], [-1]),
        ("the last of three", 3, [2], [0]),
        ("worked by hand", 10, [0, 3, 4, 9], [1, -1, 0, 2]),
        ("all coordinates", 8, list(range(8)), [0, 0, 0, 1, 0, -1, 0, 0]),
        ("all zero", 100, everywhere, [0] * 100),
        ("an escape", 100, everywhere, [0] * 99 + [127]),
        ("both extremes, raw", 100, everywhere, [127, -127] * 50),
    ]
    for d, k, sigma in [
        (100, 50, 3),
        (455, 50, 12),
        (455, 228, 12),
        (455, 455, 12),
        (4096, 41, 30),
        (4096, 2048, 1),
    ]:
        values = [max(-127, min(127, round(rng.gauss(0, sigma)))) for _ in range(k)]
        cases.append((f"{k} of {d}, sigma {sigma}", d, sorted(rng.sample(range(d), k)), values))
    for shift, (name, d, coordinates, values) in enumerate(cases):
        update = _update(d, coordinates, values, shift)
        yield {
            "name": name,
            **_update_fields(update),
            "shared": codec.encode(update, shared_coordinates=True).hex(),
            "travelling": codec.encode(update, shared_coordinates=False).hex(),
        }


def _refused_updates() -> Iterator[dict[str, Any]]:
    good = codec.encode(_update(10, [0, 3, 4, 9], [1, -1, 0, 2], 3), shared_coordinates=True)
    travelling = codec.encode(_update(10, [0, 3, 4, 9], [1, -1, 0, 2], 3), shared_coordinates=False)
    mask = [0, 3, 4, 9]
    cases: list[tuple[str, bytes, list[int] | None]] = [
        ("empty", b"", mask),
        ("truncated", good[:-1], mask),
        ("a trailing byte", good + b"\0", mask),
        ("padding that is not zero", good[:-1] + bytes([good[-1] | 1]), mask),
        ("version 2", bytes([good[0] ^ 0x30]) + good[1:], mask),
        ("scale shift 17", good[:1] + b"\x11" + good[2:], mask),
        ("count other than the mask's", good, mask[:3]),
        ("a varint longer than it need be", good[:2] + b"\x84\x00" + good[3:], mask),
        ("a worse Rice parameter", bytes.fromhex("110004") + b"\0", mask),
        ("value -128", bytes.fromhex("170004ffffffff"), mask),
        ("coordinates travel, the plan shares them", travelling, mask),
        ("coordinates are shared, the plan lets them travel", good, None),
        ("dimension of another model", travelling[:3] + b"\x0b" + travelling[4:], None),
        ("more coordinates than dimensions", travelling[:2] + b"\x0b" + travelling[3:], None),
        ("index bits all one", travelling[:4] + b"\xff" * 6, None),
        ("index truncated", travelling[:4], None),
    ]
    for name, data, coordinates in cases:
        shared = None if coordinates is None else np.array(coordinates, np.int32)
        try:
            codec.decode(data, dimension=10, coordinates=shared)
        except CodecError as error:
            yield {
                "name": name,
                "dimension": 10,
                "coordinates": coordinates,
                "data": data.hex(),
                "reason": error.reason,
            }
        else:
            raise AssertionError(f"{name}: accepted")


def _update(d: int, coordinates: list[int], values: list[int], shift: int) -> QuantizedUpdate:
    return QuantizedUpdate(
        dimension=d,
        coordinates=np.array(coordinates, np.int32),
        values=np.array(values, np.int8),
        scale_shift=shift,
    )


def _update_fields(update: QuantizedUpdate) -> dict[str, Any]:
    return {
        "dimension": update.dimension,
        "scale_shift": update.scale_shift,
        "coordinates": update.coordinates.tolist(),
        "values": update.values.tolist(),
    }


# --- messages and topics ---

_TYPES = (m.RoundPlan, m.ModelBody, m.ModelChunk, m.UpdateMessage, m.StatusMessage, m.EvaluationMessage)


def message_vectors() -> dict[str, list[Any]]:
    accepted = [
        {"type": type(message).NAME, "fields": _plain(asdict(message)), "data": message.encode().hex()}
        for message in _messages()
    ]
    topics = Topics("watch")
    return {
        "accepted": accepted,
        "refused": list(_refused_messages()),
        "topics": [
            {"name": "plan", "topic": topics.plan},
            {"name": "model", "hash": "ab" * 32, "topic": topics.model(b"\xab" * 32)},
            {
                "name": "chunk",
                "hash": "ab" * 32,
                "size": 256,
                "index": 7,
                "topic": topics.chunk(b"\xab" * 32, 256, 7),
            },
            {"name": "network", "hash": "ab" * 32, "topic": topics.network(b"\xab" * 32)},
            {"name": "update", "device": "pi-3", "topic": topics.update("pi-3")},
            {"name": "status", "device": "pi-3", "topic": topics.status("pi-3")},
            {"name": "evaluation", "device": "pi-3", "topic": topics.evaluation("pi-3")},
        ],
    }


def _messages() -> Iterator[Any]:
    reference = m.ModelReference(
        version=7,
        model_hash=bytes(range(32)),
        body_bytes=949,
        network_hash=bytes(range(32, 64)),
        network_bytes=12_345,
    )
    training = m.TrainingPlan(
        epochs=1, batch_size=16, learning_rate_q16=655, proximal_mu_q16=0, seed=2**64 - 1
    )
    mask = m.UpdatePlan(mode="mask", coordinates=228, mask_epoch=3, clipping_norm=9000, scale_shift=4)
    topk = m.UpdatePlan(mode="topk", coordinates=50, mask_epoch=0, clipping_norm=0, scale_shift=0)
    yield m.RoundPlan(
        federation="watch",
        run="k3v9q2ax",
        round=3,
        phase="round",
        cohort=("p4", "p5", "p6"),
        deadline_unix_s=1_700_000_000.25,
        arithmetic="exact",
        model=reference,
        training=training,
        update=mask,
        evaluate=(reference,),
    )
    yield m.RoundPlan(
        federation="watch",
        run="k3v9q2ax",
        round=0,
        phase="waiting",
        cohort=(),
        deadline_unix_s=None,
        arithmetic="fast",
        model=reference,
        training=training,
        update=topk,
        evaluate=(),
    )
    yield m.ModelBody(version=7, network_hash=bytes(range(32, 64)), theta=bytes.fromhex("0100ffffff7f0080"))
    model = GlobalModel(
        version=7, backbone_hash=bytes(range(32, 64)), theta=np.arange(-100, 200, dtype=np.int32)
    )
    yield from cut(model, 256)
    yield m.UpdateMessage(
        run="k3v9q2ax",
        round=3,
        model_hash_prefix=bytes(range(8)),
        num_examples=412,
        training_loss_milli=693,
        validation_correct=51,
        validation_count=60,
        validation_loss_milli=420,
        duration_ms=1875,
        payload=bytes.fromhex("100504d3c0"),
    )
    yield m.StatusMessage(
        state="online",
        num_examples=412,
        boot=bytes.fromhex("0123456789abcdef"),
        backend="integer",
        software="0.1.0",
        arithmetic_drift_lsb=None,
        detail="",
        receive_buffer_bytes=None,
    )
    yield m.StatusMessage(
        state="offline",
        num_examples=0,
        boot=bytes(8),
        backend="litert",
        software="0.1.0",
        arithmetic_drift_lsb=2,
        detail="connection lost \N{EN DASH} will",
        receive_buffer_bytes=1024,
    )
    yield m.EvaluationMessage(
        run="k3v9q2ax",
        results=(m.EvaluationResult(bytes(range(32)), correct=51, examples=60, loss_milli=420),),
    )


def _refused_messages() -> Iterator[dict[str, Any]]:
    update = next(message for message in _messages() if isinstance(message, m.UpdateMessage)).encode()
    plan = next(message for message in _messages() if isinstance(message, m.RoundPlan)).encode()
    chunk = next(message for message in _messages() if isinstance(message, m.ModelChunk)).encode()
    cases: list[tuple[str, Any, bytes]] = [
        ("a plan cut off", m.RoundPlan, plan[:-1]),
        ("a plan with a trailing byte", m.RoundPlan, plan + b"\0"),
        ("a plan of version 2", m.RoundPlan, plan[:2] + b"\2" + plan[3:]),
        ("a plan of version 2 with a field more", m.RoundPlan, b"\xad\x00\x02" + plan[3:] + b"\x0c\x00"),
        ("a plan with a field too few", m.RoundPlan, b"\xab" + plan[1 : plan.rindex(b"\x0b\x81")]),
        (
            "a plan whose keys are not in order",
            m.RoundPlan,
            plan.replace(b"\x03\x03\x04\x01", b"\x04\x01\x03\x03"),
        ),
        ("a plan with a name that is none", m.RoundPlan, plan.replace(b"bp4", b"bp ")),
        ("a plan in phase 3", m.RoundPlan, plan.replace(b"\x03\x03\x04\x01", b"\x03\x03\x04\x03")),
        ("a plan with a long round", m.RoundPlan, plan.replace(b"\x03\x03\x04", b"\x03\x18\x03\x04")),
        ("a plan that is an array", m.RoundPlan, b"\x8c" + plan[1:]),
        ("a chunk beyond its count", m.ModelChunk, chunk[:2] + b"\x05\x03" + chunk[4:]),
        ("a chunk without a piece", m.ModelChunk, b"\x85\x01\x00\x01\x40\x48" + bytes(8)),
        ("empty", m.UpdateMessage, b""),
        ("truncated", m.UpdateMessage, update[:-1]),
        ("a trailing byte", m.UpdateMessage, update + b"\0"),
        ("version 2", m.UpdateMessage, update[:1] + b"\2" + update[2:]),
        ("a field too many", m.UpdateMessage, b"\x8c" + update[1:] + b"\0"),
        ("a field too few", m.UpdateMessage, b"\x8a" + update[1:-6]),
        ("an integer longer than it need be", m.UpdateMessage, update[:1] + b"\x18\x01" + update[2:]),
        ("indefinite length", m.UpdateMessage, b"\x9f" + update[1:] + b"\xff"),
        ("a tag in front", m.UpdateMessage, b"\xd9\xd9\xf7" + update),
        ("a float", m.EvaluationMessage, bytes.fromhex("8301f93c0080")),
        ("a map where an array belongs", m.UpdateMessage, b"\xa0"),
        ("a repeated key", m.StatusMessage, b"\xa2\x00\x01\x00\x01"),
        (
            "more correct than counted",
            m.EvaluationMessage,
            bytes.fromhex("8301617281845820" + "00" * 32 + "020100"),
        ),
        ("a run that is no name", m.EvaluationMessage, bytes.fromhex("83016361206280")),
        ("half a parameter", m.ModelBody, bytes.fromhex("8401005820" + "00" * 32 + "43000000")),
        ("too large", m.StatusMessage, bytes(m.StatusMessage.MAX_BYTES + 1)),
    ]
    for name, kind, data in cases:
        try:
            kind.decode(data)
        except MessageError as error:
            yield {"name": name, "type": kind.NAME, "data": data.hex(), "reason": error.reason}
        else:
            raise AssertionError(f"{name}: accepted")


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


VECTORS: dict[str, Callable[[], dict[str, list[Any]]]] = {
    "codec.json": codec_vectors,
    "messages.json": message_vectors,
}

if __name__ == "__main__":
    sys.exit(main())
