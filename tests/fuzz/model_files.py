"""Mutated model files against the importers: no crash, no hang, bounded memory, no error but ModelFormatError.

    python tests/fuzz/model_files.py --count 100000 --json

Valid TFLite and ONNX files of random networks (and any given with --file) are damaged: bits flipped, cut off,
spliced, fields overwritten, and for ONNX also fields of the parsed message. Each is loaded, and run when it loads,
in a child process under a limit of address space and of time a file. Exit status 1 when anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from sanderling.models.errors import ModelFormatError
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.importers import from_bytes
from sanderling.models.inference import run
from sanderling.models.network import multiply_accumulates
from sanderling.models.specimens import operator_kinds, random_network

MEMORY_BYTES = 2 << 30
SECONDS_A_FILE = 10.0
CHUNK = 500
NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
)


class Hang(BaseException):
    """A file took too long; no importer may swallow this."""


def corpus(files: list[Path] = ()) -> list[bytes]:
    """Valid files: each operator alone, chains of them, as TFLite and as ONNX, and the given files."""
    networks = [
        random_network(np.random.default_rng(i), operator=kind) for i, kind in enumerate(operator_kinds())
    ]
    networks += [random_network(np.random.default_rng(seed), layers=8) for seed in range(12)]
    return [write(network) for network in networks for write in (to_tflite, to_onnx)] + [
        path.read_bytes() for path in files
    ]


def mutate(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """A damaged copy of one of the files."""
    data = seeds[rng.integers(len(seeds))]
    if data[4:8] != b"TFL3" and rng.random() < 0.4:
        return _mutate_message(rng, data)
    damaged = bytearray(data)
    for _ in range(int(rng.geometric(0.6))):
        _MUTATIONS[rng.integers(len(_MUTATIONS))](rng, damaged, seeds)
    return bytes(damaged)


def _flip_bits(rng, data, seeds):
    for _ in range(int(rng.integers(1, 9))):
        if data:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def _truncate(rng, data, seeds):
    del data[int(rng.integers(len(data) + 1)) :]


def _overwrite_number(rng, data, seeds):
    """A 4-byte field, where FlatBuffers keep offsets and lengths, takes an awkward value."""
    size = int(rng.choice([1, 2, 4, 4, 4, 8]))
    place = int(rng.integers(max(1, len(data) // size))) * size
    value = int(rng.choice(NUMBERS)) if rng.random() < 0.7 else int(rng.integers(0, max(2, 2 * len(data))))
    data[place : place + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")


def _copy_block(rng, data, seeds):
    if len(data) < 2:
        return
    source, target = rng.integers(len(data), size=2)
    length = int(rng.integers(1, 65))
    data[target : target + length] = data[source : source + length]


def _delete_block(rng, data, seeds):
    place = int(rng.integers(len(data) + 1))
    del data[place : place + int(rng.integers(1, 33))]


def _insert_noise(rng, data, seeds):
    place = int(rng.integers(len(data) + 1))
    data[place:place] = rng.bytes(int(rng.integers(1, 33)))


def _splice(rng, data, seeds):
    other = seeds[rng.integers(len(seeds))]
    place = int(rng.integers(len(data) + 1))
    data[place:] = other[int(rng.integers(len(other) + 1)) :]


_MUTATIONS = (
    _flip_bits,
    _flip_bits,
    _truncate,
    _overwrite_number,
    _overwrite_number,
    _overwrite_number,
    _copy_block,
    _delete_block,
    _insert_noise,
    _splice,
)


def _mutate_message(rng: np.random.Generator, data: bytes) -> bytes:
    """An ONNX file with fields of the parsed message changed, so that it still parses."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for _ in range(int(rng.geometric(0.6))):
        node = graph.node[rng.integers(len(graph.node))]
        constant = graph.initializer[rng.integers(len(graph.initializer))] if graph.initializer else None
        match int(rng.integers(10)):
            case 0:
                node.op_type = graph.node[rng.integers(len(graph.node))].op_type
            case 1 if node.input:
                other = graph.node[rng.integers(len(graph.node))]
                names = [*other.input, *other.output, "missing", ""]
                node.input[rng.integers(len(node.input))] = names[rng.integers(len(names))]
            case 2 if node.input:
                del node.input[int(rng.integers(len(node.input)))]
            case 3 if node.attribute:
                attribute = node.attribute[rng.integers(len(node.attribute))]
                attribute.i = int(rng.integers(-(2**40), 2**40))
                if attribute.ints:
                    attribute.ints[rng.integers(len(attribute.ints))] = int(rng.choice(NUMBERS)) - 3
            case 4 if node.attribute:
                del node.attribute[int(rng.integers(len(node.attribute)))]
            case 5 if constant is not None and constant.dims:
                constant.dims[rng.integers(len(constant.dims))] = int(rng.choice([*NUMBERS, -1, 2**40]))
            case 6 if constant is not None:
                constant.data_type = int(rng.integers(0, 24))
            case 7 if constant is not None and constant.raw_data:
                noise = bytearray(constant.raw_data)
                _overwrite_number(rng, noise, [])
                constant.raw_data = bytes(noise)
            case 8:
                graph.node.insert(int(rng.integers(len(graph.node))), node)
            case _:
                value = graph.input[0].type.tensor_type
                value.shape.dim.add().dim_value = int(rng.choice(NUMBERS))
    return model.SerializeToString()


def try_file(data: bytes) -> str:
    """ "refused", or "loaded" after a run on zeros. Any other exception is the importer's or the runtime's fault."""
    try:
        network = from_bytes(data)
    except ModelFormatError:
        return "refused"
    sizes = [int(np.prod(tensor.shape)) for tensor in network.tensors]
    work = sum(multiply_accumulates(network, layer) for layer in network.layers)
    if max(sizes) < 10**6 and sum(sizes) < 10**7 and work < 10**7:
        shapes = [network.tensors[i] for i in network.inputs]
        run(
            network,
            [np.zeros((1, *t.shape[1:]) if t.shape[:1] == (1,) else (1, *t.shape), t.dtype) for t in shapes],
        )
    return "loaded"


def _alarm(signum, frame):
    raise Hang


def _child(seed: int, first: int, count: int, seeds: list[bytes], write: int) -> None:
    """Tries `count` files and reports a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _alarm)
    for index in range(first, first + count):
        data = mutate(np.random.default_rng((seed, index)), seeds)
        started = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS_A_FILE)
        try:
            result = try_file(data)
        except Hang:
            result = "hang"
        except MemoryError:
            result = "out of memory"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"[:200]
        signal.setitimer(signal.ITIMER_REAL, 0)
        kind = "tflite" if data[4:8] == b"TFL3" else "onnx"
        line = {"index": index, "kind": kind, "result": result, "seconds": time.perf_counter() - started}
        os.write(write, (json.dumps(line) + "\n").encode())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.write(write, (json.dumps({"peak_kib": peak}) + "\n").encode())


def _run_chunk(seed: int, first: int, count: int, seeds: list[bytes]) -> tuple[list[dict], int]:
    """The child's lines, and the signal or status that it ended with."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        try:
            _child(seed, first, count, seeds, write)
        finally:
            os._exit(0)  # a report that is missing tells of the failure
    os.close(write)
    with os.fdopen(read) as lines:
        reports = [json.loads(line) for line in lines]
    return reports, os.waitpid(child, 0)[1]


def fuzz(count: int, seed: int, seeds: list[bytes]) -> dict:
    """Figures over `count` files; `findings` lists what must not happen, by index."""
    results, findings = Counter(), []
    slowest, peak_kib, started, index = 0.0, 0, time.perf_counter(), 0
    while index < count:
        reports, status = _run_chunk(seed, index, min(CHUNK, count - index), seeds)
        for report in reports:
            if "peak_kib" in report:
                peak_kib = max(peak_kib, report["peak_kib"])
                continue
            index = report["index"] + 1
            slowest = max(slowest, report["seconds"])
            expected = report["result"] in ("refused", "loaded")
            results[f"{report['kind']} {report['result'] if expected else 'finding'}"] += 1
            if not expected:
                findings.append(report)
        if status or not reports or "peak_kib" not in reports[-1]:
            findings.append({"index": index, "result": f"the process ended early with status {status}"})
            index += 1
    return {
        "files": count,
        "seed": seed,
        "results": dict(sorted(results.items())),
        "findings": findings[:50],
        "finding_count": len(findings),
        "slowest_ms": round(1000 * slowest, 1),
        "peak_resident_mib": round(peak_kib / 1024, 1),
        "address_space_limit_mib": MEMORY_BYTES >> 20,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--file", type=Path, action="append", default=[], help="another valid file to start from"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    figures = fuzz(arguments.count, arguments.seed, corpus(arguments.file))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    return 1 if figures["finding_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
