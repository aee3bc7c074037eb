"""How many bytes an update takes, against its entropy and against zstd. Prints one JSON object.

For each dimension d, number of coordinates k and distribution of values: the payload of broker/codec.py with a
shared mask, and with coordinates that travel, of which those with value zero are left out. The bound is
(log2 C(d, k) + k H) / 8 bytes, with H the zero-order entropy of the distribution ("source"), and of the values at
hand ("sample": lower, since a few values look more orderly than what they were drawn from). zstd at level 19 gets
the dense int8 vector. Index coding is measured on its own, in bits, without header and padding. Last, whole update
messages for the watch head (d = 455), and times.

    python benchmarks/update_size.py [--draws 20]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from sanderling.broker import codec
from sanderling.broker.messages import UpdateMessage
from sanderling.models.updates import Int8Vector, QuantizedUpdate

SHAPES = [
    (455, 50),
    (455, 228),
    (455, 455),
    (780, 78),
    (4_096, 205),
    (4_096, 2_048),
    (100_000, 1_000),
    (100_000, 10_000),
]
INDEX_SHAPES = [(100, 50), (455, 50), (4_096, 50), (100_000, 50)] + [
    (d, round(d * density))
    for d in (4_096, 20_000, 100_000)
    for density in (0.005, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.38, 0.45, 0.5)
]
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
DISTRIBUTIONS: dict[str, Draw] = {
    "Laplace, scale 8": lambda rng, k: rng.laplace(0, 8, k),
    "Gaussian, sigma 12": lambda rng, k: rng.normal(0, 12, k),
    "Gaussian, sigma 3": lambda rng, k: rng.normal(0, 3, k),
    "Student t, 2 degrees, scale 4": lambda rng, k: 4 * rng.standard_t(2, k),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=20, help="random updates a row; figures are their means")
    draws = parser.parse_args().draws
    result = {
        "updates": [
            payload_row(d, k, name, draw, draws) for d, k in SHAPES for name, draw in DISTRIBUTIONS.items()
        ],
        "index": [index_row(d, k, draws) for d, k in INDEX_SHAPES],
        "messages": [message_row(455, k, draws) for k in (228, 455)],
        "time": [time_row(d, k) for d, k in [(455, 228), (4_096, 205), (100_000, 10_000)]],
    }
    print(json.dumps(result, indent=2))


def payload_row(d: int, k: int, name: str, draw: Draw, draws: int) -> dict[str, Any]:
    masked = [random_update(d, k, draw, seed) for seed in range(draws)]
    sparse = [without_zeros(update) for update in masked]
    top_k = mean([len(codec.encode(update, shared_coordinates=False)) for update in sparse])
    mask = mean([len(codec.encode(update, shared_coordinates=True)) for update in masked])
    index_bytes = mean([log2_choose(d, len(update.values)) / 8 for update in sparse])
    sample = {
        "mask": mean([value_bytes(update, entropy_bits(update.values)) for update in masked]),
        "top_k": index_bytes + mean([value_bytes(update, entropy_bits(update.values)) for update in sparse]),
    }
    source = {
        "mask": k * source_bits(draw, with_zero=True) / 8,
        "top_k": index_bytes
        + mean([value_bytes(update, source_bits(draw, with_zero=False)) for update in sparse]),
    }
    return {
        "dimension": d,
        "coordinates": k,
        "values": name,
        "mask_bytes": round(mask, 1),
        "mask_over_source_bound": round(mask / source["mask"], 4),
        "mask_over_sample_bound": round(mask / sample["mask"], 4),
        "top_k_sent": round(mean([len(update.values) for update in sparse]), 1),
        "top_k_bytes": round(top_k, 1),
        "top_k_over_source_bound": round(top_k / source["top_k"], 4),
        "top_k_over_sample_bound": round(top_k / sample["top_k"], 4),
        "zstd_19_dense_bytes": round(mean([len(zstd(dense(update))) for update in masked]), 1),
        "fp32_dense_bytes": 4 * d,
    }


def value_bytes(update: QuantizedUpdate, bits: float) -> float:
    return len(update.values) * bits / 8


@functools.cache
def source_bits(draw: Draw, *, with_zero: bool) -> float:
    values = quantised(draw(np.random.default_rng(0), 1_000_000))
    return entropy_bits(values if with_zero else values[values != 0])


def index_row(d: int, k: int, draws: int) -> dict[str, Any]:
    bits = [codec.index_bits(random_coordinates(d, k, seed), d) for seed in range(draws)]
    bound = log2_choose(d, k)
    return {
        "dimension": d,
        "coordinates": k,
        "index_bits": round(mean(bits), 1),
        "bound_bits": round(bound, 1),
        "over_bound": round(mean(bits) / bound, 4),
        "worst_over_bound": round(max(bits) / bound, 4),
    }


def message_row(d: int, k: int, draws: int) -> dict[str, Any]:
    """A whole MQTT payload under a shared mask."""
    payloads = [
        codec.encode(random_update(d, k, DISTRIBUTIONS["Gaussian, sigma 12"], seed), shared_coordinates=True)
        for seed in range(draws)
    ]
    sizes = [len(update_message(payload).encode()) for payload in payloads]
    return {
        "dimension": d,
        "coordinates": k,
        "values": "Gaussian, sigma 12",
        "message_bytes": round(mean(sizes), 1),
        "overhead_bytes": mean([size - len(payload) for size, payload in zip(sizes, payloads, strict=True)]),
        "fp32_head_over_message": round(4 * d / mean(sizes), 2),
    }


def time_row(d: int, k: int) -> dict[str, Any]:
    """The least of several runs, in milliseconds."""
    update = random_update(d, k, DISTRIBUTIONS["Gaussian, sigma 12"], 0)
    shared = codec.encode(update, shared_coordinates=True)
    travelling = codec.encode(update, shared_coordinates=False)
    return {
        "dimension": d,
        "coordinates": k,
        "encode_mask_ms": least_ms(lambda: codec.encode(update, shared_coordinates=True)),
        "decode_mask_ms": least_ms(lambda: codec.decode(shared, dimension=d, coordinates=update.coordinates)),
        "encode_top_k_ms": least_ms(lambda: codec.encode(update, shared_coordinates=False)),
        "decode_top_k_ms": least_ms(lambda: codec.decode(travelling, dimension=d)),
    }


def quantised(values: NDArray[np.float64]) -> Int8Vector:
    return np.clip(np.rint(values), -127, 127).astype(np.int8)


def without_zeros(update: QuantizedUpdate) -> QuantizedUpdate:
    kept = update.values != 0
    return replace(update, coordinates=update.coordinates[kept], values=update.values[kept])


def random_update(d: int, k: int, draw: Draw, seed: int) -> QuantizedUpdate:
    values = quantised(draw(np.random.default_rng([seed, d, k]), k))
    return QuantizedUpdate(
        dimension=d, coordinates=random_coordinates(d, k, seed), values=values, scale_shift=4
    )


def random_coordinates(d: int, k: int, seed: int) -> NDArray[np.int32]:
    return np.sort(np.random.default_rng(seed).choice(d, k, replace=False)).astype(np.int32)


def update_message(payload: bytes) -> UpdateMessage:
    return UpdateMessage(
        run="k3v9q2ax",
        round=20,
        model_hash_prefix=bytes(8),
        num_examples=412,
        training_loss_milli=693,
        validation_correct=51,
        validation_count=60,
        validation_loss_milli=420,
        duration_ms=1875,
        payload=payload,
    )


def dense(update: QuantizedUpdate) -> bytes:
    vector = np.zeros(update.dimension, np.int8)
    vector[update.coordinates] = update.values
    return vector.tobytes()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19, write_content_size=False).compress(data)


def entropy_bits(values: Int8Vector) -> float:
    """Zero-order entropy of the values at hand, a value."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())


def log2_choose(d: int, k: int) -> float:
    return (math.lgamma(d + 1) - math.lgamma(k + 1) - math.lgamma(d - k + 1)) / math.log(2)


def least_ms(call: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return round(1000 * min(times), 3)


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


if __name__ == "__main__":
    main()
