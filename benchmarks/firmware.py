"""What the firmware takes, per model of the zoo and core: instructions (counted in QEMU, not timed), SRAM, flash, stack.

Beside it in the same run: BakeNN 1.0, with its own kernels and with CMSIS-NN 4.0 on the Cortex-M4, and the arena of TFLM's interpreter.
Counts are of instructions, not of cycles, of code built for speed (-O2); bytes are of the node built for size (-Os). Code of the Cortex-M0+ runs on QEMU's Cortex-M3, which executes the same ones.

    python benchmarks/firmware.py [--models NAME ...] [--cores CORE ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import firmware_peers

from sanderling.firmware_export import cmsis_nn, counting, toolchain
from sanderling.firmware_export.fit import (
    CLASS_COUNT_BYTES,
    STACK_BYTES,
    HeadTraining,
    held_back_examples,
    node_definitions,
    scratch_bytes,
)
from sanderling.firmware_export.flashed import flashed_files
from sanderling.firmware_export.golden import EXAMPLES as SELF_TEST_EXAMPLES
from sanderling.firmware_export.targets import Target, target
from sanderling.models import zoo
from sanderling.models.lowering import lower
from sanderling.models.network import Network
from sanderling.models.package import ModelPackage
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.tail import DenseHead, dense_head

RESULTS = Path(__file__).parent / "results" / "firmware.json"
EXAMPLES = 16  # as in apps/measure
CACHE_BYTES = 4096
CORES = {
    "cortex-m0plus": replace(target("mps2-an385"), core="cortex-m0plus"),
    "cortex-m3": target("mps2-an385"),
    "cortex-m4f": target("mps2-an386"),
    "cortex-m7": target("mps2-an500"),
    "cortex-m33": target("mps2-an505"),
    "cortex-m55": target("mps3-an547"),
}
INFERENCE = ("kernels", "arithmetic", "network", "preprocessing", "cmsis", "arm_")
TRAINING = (
    "head",
    "rows",
    "softmax",
    "shadow",
    "trainer",
    "compression",
    "codec",
    "random_bits",
    "examples",
    "tail",
    "block_float",
)
LINK = (
    "agent",
    "messages",
    "mqtt",
    "model_store",
    "frame",
    "download",
    "storage",
    "cbor",
    "intake",
    "base",
    "self_test",
    "seal",
    "guard",
    "announcement",
    "sha512",
)
LIBRARY = ("libc", "libgcc", "libm", "monocypher", "board", "startup", "main")


def main() -> None:
    arguments = _arguments()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for core in arguments.cores:
            for row in measure(core, arguments.models, Path(folder) / core):
                results.append(row)
                print(json.dumps(row), flush=True)
        peers = (
            [peer(name, Path(folder) / "peers" / name) for name in arguments.models]
            if arguments.peers
            else []
        )
        for row in peers:
            print(json.dumps(row), flush=True)
    summary = {"ours": results, "peers": peers, "aims": aims(results, peers)}
    print(json.dumps(summary["aims"], indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(zoo.NAMES))
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=list(CORES))
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def package(name: str) -> ModelPackage:
    """A shipped model, or an untrained one of the architecture."""
    if name in zoo.shipped():
        return zoo.package(name)
    network = zoo.random_network(name, seed=1)
    quantization = network.tensors[network.inputs[0]].quantization
    assert quantization is not None
    return ModelPackage(
        network=network, preprocessing=Preprocessing.of_input(quantization, 1), class_names=()
    )


def measure(core: str, names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """A row a model: with the plain kernels, and on the Cortex-M4 with CMSIS-NN's too."""
    board = CORES[core]
    for name in names:
        model = package(name)
        yield {
            "core": core,
            "model": name,
            "kernels": "plain",
            **_measured(name, model, board, folder / "plain"),
        }
        if core == "cortex-m4f":
            lowered = cmsis_nn.lower(model.network)
            row = _measured(name, model, board, folder / "cmsis", cmsis=True)
            yield {
                "core": core,
                "model": name,
                "kernels": "CMSIS-NN",
                **row,
                "arena_bytes": lowered.arena_bytes,
            }


def _measured(
    name: str, model: ModelPackage, board: Target, folder: Path, *, cmsis: bool = False
) -> dict[str, Any]:
    """Builds in `folder` what was built there for another model too, so that the runtime is compiled once a core."""
    tables = folder / name
    tables.mkdir(parents=True)
    lowered = cmsis_nn.lower(model.network) if cmsis else lower(model.network)
    for file, text in flashed_files(
        model, lowered=lowered, includes=cmsis_nn.INCLUDES if cmsis else ()
    ).items():
        (tables / file).write_text(text)
    head = dense_head(model.network)
    training = HeadTraining(cache_examples=_cache_examples(head), batch_size=EXAMPLES)
    extra = {"SANDERLING_CMSIS_NN": str(cmsis_nn.folder())} if cmsis else {}
    quick = toolchain.build(
        board,
        folder / "speed",
        networks=[tables],
        applications=["measure"],
        settings={"SANDERLING_OPTIMIZE": "speed", **extra},
    )[f"measure-{name}"]
    ended, (_, inference, _, order, one, two, batch, batches) = counting.count(quick, board)
    if ended.status != 0:
        raise SystemExit(f"{board.name}: status {ended.status}, {ended.log}{ended.errors}")
    _, inference_stack, training_stack = ended.log.split()
    node = toolchain.build(
        board,
        folder / "size",
        networks=[tables],
        applications=["node"],
        settings={"SANDERLING_DEFINITIONS": ";".join(node_definitions(head, training)), **extra},
    )[f"node-{name}"]
    rows = training.cache_examples + 2 * held_back_examples(training.cache_examples)
    training_sram = (
        2 * head.dimension
        + max(
            0, scratch_bytes(head, training) - lowered.arena_bytes
        )  # in the arena while nothing is inferred
        + rows * (head.features + 2)
        + CLASS_COUNT_BYTES * head.classes
    )
    return {
        "inference_instructions": inference,
        "step_instructions": (two - one - order) // EXAMPLES,
        "batch_step_instructions": batches - batch - order,
        "head": f"{head.features}x{head.classes}",
        "inference_stack_bytes": int(inference_stack),
        "training_stack_bytes": int(training_stack),
        "arena_bytes": lowered.arena_bytes,
        "cache_examples": training.cache_examples,
        "training_sram_bytes": training_sram,
        "static_sram_bytes": node.sram_bytes,
        "flash_bytes": node.flash_bytes,
        **_by_group(node),
    }


def _cache_examples(head: DenseHead) -> int:
    """As many to train on as fit CACHE_BYTES together with those held back; one a class at least."""
    rows = CACHE_BYTES // (head.features + 2)
    fitting = (n for n in range(rows, 0, -1) if n + 2 * held_back_examples(n) <= rows)
    return max(head.classes, SELF_TEST_EXAMPLES, next(fitting, 1))


def _by_group(program: toolchain.Program) -> dict[str, int]:
    groups = {
        "inference": INFERENCE,
        "training": TRAINING,
        "link": LINK,
        "library_and_board": LIBRARY,
        "tables": ("sanderling_",),
    }
    found = dict.fromkeys((f"{group}_flash_bytes" for group in groups), 0)
    for name, (flash, _) in toolchain.sizes_by_object(program).items():
        (group,) = (g for g, starts in groups.items() if name.startswith(starts))
        found[f"{group}_flash_bytes"] += flash
    return found


def peer(name: str, folder: Path) -> dict[str, Any]:
    """The same network in the hands of others, on the Cortex-M4."""
    network: Network = package(name).network
    board = CORES["cortex-m4f"]
    return {
        "model": name,
        "tflm_arena_bytes": firmware_peers.tflm_arena(network),
        "bakenn": firmware_peers.bakenn_inference(network, board, folder / "plain", cmsis_nn=False),
        "bakenn_with_cmsis_nn": firmware_peers.bakenn_inference(
            network, board, folder / "cmsis", cmsis_nn=True
        ),
    }


def aims(rows: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, and what came."""
    by = {(row["core"], row["model"], row["kernels"]): row for row in rows}
    found: list[dict[str, Any]] = []

    def aim(what: str, value: float, limit: float) -> None:
        found.append({"aim": what, "measured": value, "at_most": limit, "reached": value <= limit})

    keyword = by.get(("cortex-m4f", "keyword-ds-cnn", "plain"))
    if keyword is not None:
        stack = max(keyword["inference_stack_bytes"], keyword["training_stack_bytes"])
        alone = keyword["arena_bytes"] + keyword["training_sram_bytes"] + stack
        aim("keyword DS-CNN: arena, training, 4 KB cache, stack", alone, 32 * 1024)
        aim(
            "keyword DS-CNN: the whole node by its link map, with the stack that is reserved",
            keyword["static_sram_bytes"] + STACK_BYTES,
            32 * 1024,
        )
        aim("64x12 step, M4", keyword["step_instructions"], 10_000)
    small = by.get(("cortex-m0plus", "keyword-ds-cnn", "plain"))
    if small is not None:
        aim("64x12 step, M0+", small["step_instructions"], 20_000)
    for row in rows:
        if row["core"] == "cortex-m4f" and row["kernels"] == "plain":
            aim(f"{row['model']}: training code", row["training_flash_bytes"], 8 * 1024)
            aim(f"{row['model']}: inference runtime", row["inference_flash_bytes"], 20 * 1024)
            other = by.get(("cortex-m4f", row["model"], "CMSIS-NN"))
            if other is not None:
                ratio = row["inference_instructions"] / other["inference_instructions"]
                aim(f"{row['model']}: plain kernels over CMSIS-NN's instructions", round(ratio, 3), 1.2)
    for row in peers:
        ours = by.get(("cortex-m4f", row["model"], "plain"))
        theirs = row["bakenn_with_cmsis_nn"].get("instructions")
        if ours is not None and theirs is not None:
            ratio = ours["inference_instructions"] / theirs
            aim(f"{row['model']}: ours over BakeNN's with CMSIS-NN", round(ratio, 3), 1.2)
    return found


if __name__ == "__main__":
    main()
