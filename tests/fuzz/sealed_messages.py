"""Mutated seals and signatures against the reference: refused each time, by a reason, without another exception.

    python -m tests.fuzz.sealed_messages --count 1000000

Good messages are damaged: bits flipped, cut off, spliced, lengthened, or headed as another's. Prints how often each reason came
as JSON; exit status 1 when one was accepted or something else than ProtocolError came out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter

from sanderling.broker import announcements, sealing
from sanderling.broker.counters import ReplayWindow
from sanderling.models.errors import ProtocolError
from tests.broker.sealed import KEY, SIGNER, SUBJECT, a_key

PINNED = SIGNER.public_key()
SIGN = {"federation": "watch", "kind": announcements.Kind.PLAN}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    good = _good_messages(rng)
    reasons: Counter[str] = Counter()
    faults = []
    for _ in range(arguments.count):
        data = _damaged(rng, good)
        try:
            reasons[_reason(data)] += data not in good
        except Exception as error:
            faults.append(f"{data.hex():.200}: {error!r}")
    print(json.dumps({"reasons": reasons, "faults": faults[:10]}))
    return int(bool(faults) or reasons["accepted"] > 0)


def _good_messages(rng: random.Random) -> list[bytes]:
    keys = [KEY, a_key(epoch=2)]
    messages = [rng.randbytes(size) for size in (0, 1, 64, 206)]
    sealed = [
        sealing.seal(message, key, SUBJECT, counter)
        for message in messages
        for key in keys
        for counter in (1, 300)
    ]
    return sealed + [
        announcements.sign(message, SIGNER, sequence=sequence, **SIGN)
        for message in messages
        for sequence in (1, 10**12)
    ]


def _damaged(rng: random.Random, good: list[bytes]) -> bytes:
    data, other = bytearray(rng.choice(good)), rng.choice(good)
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            at = rng.randrange(len(data))
            data[at:] = other[at:]
        case 3:
            data += rng.randbytes(rng.randint(1, 40))
        case _:
            data[: rng.randint(1, 9)] = other[: rng.randint(1, 9)]
    return bytes(data)


def _reason(data: bytes) -> str:
    try:
        if data[:1] == b"\x11":
            announcements.verify(data, PINNED, **SIGN)
        else:
            sealing.unseal(data, KEY, SUBJECT, ReplayWindow())
    except ProtocolError as error:
        return error.reason
    return "accepted"


if __name__ == "__main__":
    sys.exit(main())
