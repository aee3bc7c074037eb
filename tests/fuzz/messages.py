"""Mutated messages against every decoder and the coordinator's door: refused by a reason, or taken; nothing else, and memory flat.

    python -m tests.fuzz.messages --count 1000000 --json

Good messages are damaged as bytes (bits flipped, cut off, spliced, lengthened), as CBOR (an item replaced by a hostile one,
removed, added; a byte string inside damaged), and in their topic; some are left whole. What the door admits also passes the
coordinator's core, whose new state is dropped: the state of before stands for every message. Exit status 1 when anything but
a ProtocolError came out, when a message took over a second of processor time, or when resident memory grew.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from sanderling.broker import codec
from sanderling.broker.chunks import cut
from sanderling.broker.messages import ModelBody, ModelChunk, RoundPlan, UpdateMessage
from sanderling.coordinator.door import admit
from sanderling.coordinator.rounds import coordinates_of, new_state, plan_of, step
from sanderling.models.errors import ProtocolError
from sanderling.models.updates import GlobalModel
from tests.coordinator.conftest import RUN, Lab, make_settings, status

SECONDS_A_MESSAGE = 1.0
GROWTH_MIB = 8.0  # of resident memory after the first tenth
MODEL = GlobalModel(version=0, backbone_hash=bytes(32), theta=np.arange(455, dtype=np.int32))
BIG = 1 << 20_000  # more digits than Python prints
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**64 - 1,
    2**64,
    BIG,
    1.5,
    math.nan,
    "x" * 300,
    "\0é",
    b"",
    bytes(1 << 20),
    [],
    [[]] * (1 << 16),
    {},
    {-1: {}},
    cbor2.undefined,
    cbor2.CBORSimpleValue(99),
    cbor2.CBORTag(4, [2**31, 1]),
    cbor2.CBORTag(30, [BIG, 3]),
    cbor2.CBORTag(35, "(a+)+b"),
    cbor2.CBORTag(777, 0),
)
TOPICS = (
    "",
    "a/b",
    "x" * 70_000,
    *(f"sanderling/1/lab/device/{name}/update" for name in ("", "é", "a", "c", "z")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A good message and what takes it."""

    name: str
    take: Callable[[str, bytes], object]
    topic: str
    data: bytes
    cbor: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    name: str
    reason: str
    fault: str | None
    processor_s: float


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Counts by message and reason, faults, and what time and memory it took."""
    rng, good = random.Random(seed), seeds()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    faults: list[str] = []
    slowest_s, settled_mib, began = 0.0, 0.0, time.perf_counter()
    for number in range(count):
        outcome = run_one(rng, good)
        counts[outcome.name][outcome.reason] += 1
        slowest_s = max(slowest_s, outcome.processor_s)
        if outcome.fault is not None:
            faults.append(outcome.fault)
        if number == count // 10:
            settled_mib = resident_mib()
    total = sum(counts.values(), Counter[str]())
    return {
        "messages": count,
        "seed": seed,
        "reasons": dict(sorted(total.items())),
        "by_message": {name: dict(sorted(counts[name].items())) for name in sorted(counts)},
        "faults": faults[:10],
        "fault_count": len(faults),
        "slowest_ms": round(1000 * slowest_s, 1),
        "resident_mib_after_a_tenth": round(settled_mib, 1),
        "resident_mib_at_the_end": round(resident_mib(), 1),
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - began, 1),
    }


def run_one(rng: random.Random, good: list[Seed]) -> Outcome:
    """One message, damaged and taken."""
    seed = rng.choice(good)
    topic, data = damaged(rng, seed, good)
    fault, started = None, time.thread_time()
    try:
        seed.take(topic, data)
        reason = "accepted"
    except ProtocolError as error:
        reason = error.reason
    except Exception as error:
        reason, fault = "fault", f"{error!r:.200}"
    took_s = time.thread_time() - started
    if took_s > SECONDS_A_MESSAGE:
        fault = f"{took_s:.1f} s of processor time"
    where = f"{seed.name}, topic {topic:.80}, {data[:200].hex()}: {fault}"
    return Outcome(name=seed.name, reason=reason, fault=fault and where, processor_s=took_s)


@functools.cache
def seeds() -> list[Seed]:
    """Every message of a device or the coordinator, at doors with a round open, and with a run finished."""
    masked, chosen, finished = _labs()
    plans = [plan_of(lab.settings, lab.state).encode() for lab in (masked, finished)]
    return [
        *(_at_the_door("masked", masked, kind, data) for kind, data in _of_a_device(masked)),
        *(_at_the_door("top-k", chosen, kind, data) for kind, data in _of_a_device(chosen)),
        _at_the_door("finished", finished, "evaluation", finished.evaluation()),
        *(_decoded("plan", RoundPlan.decode, data) for data in plans),
        _decoded("model body", ModelBody.decode, ModelBody.of(MODEL).encode()),
        _decoded("model chunk", ModelChunk.decode, cut(MODEL, 128)[1].encode()),
        _at_the_codec("masked", masked),
        _at_the_codec("top-k", chosen),
    ]


def _labs() -> tuple[Lab, Lab, Lab]:
    """A shared mask, and a has reported; an open federation whose devices choose coordinates; a finished run."""
    masked = Lab(make_settings(density=0.5), new_state(RUN, MODEL, 100), [])
    opened = make_settings(devices=(), density=0.1)
    chosen = Lab(replace(opened, update=replace(opened.update, mode="topk")), new_state(RUN, MODEL, 100), [])
    finished = Lab(make_settings(count=1), new_state(RUN, MODEL, 100), [])
    for lab in (masked, chosen, finished):
        lab.announce("a", "b")
    masked.report("a")
    finished.report("a", "b")
    return masked, chosen, finished


def _of_a_device(lab: Lab) -> list[tuple[str, bytes]]:
    return [("update", lab.update()), ("status", status(receive_buffer_bytes=1024).encode())]


def _at_the_door(name: str, lab: Lab, kind: str, data: bytes) -> Seed:
    settings, state, topics, now = lab.settings, lab.state, lab.topics, lab.now

    def take(topic: str, payload: bytes) -> None:
        step(settings, state, admit(settings, state, topics, topic, payload), now)

    return Seed(name=f"{name} door, {kind}", take=take, topic=getattr(topics, kind)("b"), data=data)


def _decoded(name: str, decode: Callable[[bytes], object], data: bytes, cbor: bool = True) -> Seed:
    return Seed(name=name, take=lambda _, payload: decode(payload), topic="", data=data, cbor=cbor)


def _at_the_codec(name: str, lab: Lab) -> Seed:
    opened, dimension = lab.state.open, lab.state.model.theta.size
    assert opened is not None
    decode = functools.partial(
        codec.decode,
        dimension=dimension,
        coordinates=coordinates_of("lab", opened.update, dimension),
        max_coordinates=opened.update.coordinates,
    )
    return _decoded(f"{name} codec", decode, UpdateMessage.decode(lab.update()).payload, cbor=False)


def damaged(rng: random.Random, seed: Seed, others: list[Seed]) -> tuple[str, bytes]:
    """Topic and payload; one in twenty whole, one in twenty under another topic."""
    draw = rng.random()
    if draw < 0.05:
        return seed.topic, seed.data
    if draw < 0.1:
        return rng.choice([*TOPICS, *(other.topic for other in others)]), seed.data
    if seed.cbor and draw < 0.6:
        return seed.topic, _damaged_items(rng, seed.data)
    return seed.topic, _damaged_bytes(rng, seed.data, rng.choice(others).data)


def _damaged_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    bad = bytearray(data)
    match rng.randrange(6):
        case 0:
            for _ in range(rng.randint(1, 4)):
                bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        case 1:
            del bad[rng.randrange(len(bad)) :]
        case 2:
            bad[rng.randrange(len(bad)) :] = other[rng.randrange(len(other)) :]
        case 3:
            bad += rng.randbytes(rng.randint(1, 40))
        case 4:
            at = rng.randrange(len(bad))
            bad[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        case _:
            at = rng.randrange(len(bad))  # where a head stood, a length or a tag of any size
            bad[at : at + 1] = bytes([rng.randrange(256) | 0x18]) + rng.randbytes(rng.choice((1, 2, 4, 8)))
    return bytes(bad)


def _damaged_items(rng: random.Random, data: bytes) -> bytes:
    """The same message with one item of it changed, in the encoding that a receiver asks for."""
    whole = cbor2.loads(data)
    parent: Any = whole
    while True:
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        item = parent[key]
        if not isinstance(item, (list, dict)) or not item or rng.random() < 0.2:
            break
        parent = item
    match rng.randrange(5):
        case 0 if isinstance(item, bytes) and item:
            parent[key] = _damaged_bytes(rng, item, data)
        case 0 | 1 if isinstance(item, int):
            parent[key] = item + rng.choice((-1, 1, 255, 2**32))
        case 2:
            del parent[key]
        case 3 if isinstance(parent, dict):
            parent[rng.choice((-1, 99, "x"))] = item
        case 3:
            parent.insert(key, item)
        case _:
            parent[key] = rng.choice(HOSTILE)
    return cbor2.dumps(whole, canonical=True)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="figures as JSON, instead of a line")
    arguments = parser.parse_args()
    result = fuzz(arguments.count, arguments.seed)
    growth_mib = result["resident_mib_at_the_end"] - result["resident_mib_after_a_tenth"]
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{result['messages']} messages, {result['reasons']}, {growth_mib:+.1f} MiB, faults: {result['faults']}"
        )
    return int(bool(result["fault_count"]) or growth_mib > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
