"""Rank what to train on a device under a memory budget: last layers and channels, by what they add on your data.

Each choice is trained by the device's own integer arithmetic and measured on validation examples; its SRAM is an
estimate until firmware is measured.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sanderling import assembly, data_source
from sanderling.commands import options
from sanderling.console import Console
from sanderling.models import zoo
from sanderling.models.datasets import TRAIN, VALIDATION, Dataset
from sanderling.models.errors import DatasetError
from sanderling.models.random_bits import derive_key, permutation
from sanderling.models.tail_choice import Choice, Data, rank_tails


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the budget, and whose data to try on."""
    parser.add_argument("model", help="a model of the zoo, or a .tflite, .onnx or .sanderling file")
    parser.add_argument("--sram", type=options.byte_count, required=True, help="SRAM for training, as 64KB")
    parser.add_argument(
        "--client", help="whose examples of the data set to try on (default: the first client)"
    )
    parser.add_argument("--cache", type=int, default=64, help="examples the device holds to train on")
    parser.add_argument("--top", type=int, default=10, help="how many choices to show")
    parser.add_argument("--config", type=Path, help="federation.toml with the data and the training settings")
    options.add_overrides(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Trains every choice that fits and orders them by accuracy, then by size."""
    config = options.read_config(arguments)
    package = zoo.package(arguments.model)
    data = data_source.dataset(config)
    seed = config.federation.seed
    own = data.for_client(arguments.client or data.client_names[-1])

    def part(split: Any) -> Data:
        chosen: Dataset = own.part(split)
        if len(chosen) == 0:
            raise DatasetError(
                f"data set {data.name!r}: the client has no examples to train or to validate on"
            )
        # The device's cache holds all classes; recordings come one after the other.
        order = permutation(derive_key("order", "tail", seed), len(chosen))
        chosen = replace(chosen, examples=chosen.examples[order], labels=chosen.labels[order])
        return Data(inputs=package.preprocessing.quantize_input(chosen.examples), targets=chosen.labels)

    choices = rank_tails(
        package.network,
        part(TRAIN),
        part(VALIDATION),
        assembly.local_training(config),
        sram_bytes=arguments.sram,
        cache_examples=arguments.cache,
        keys=(derive_key("train", "tail", seed), derive_key("round", "tail", seed)),
        progress=console.progress,
    )
    rows = [_row(choice, choice.describe(package.network)) for choice in choices[: arguments.top]]
    lines = [f"{'accuracy':>9}{'over head':>11}{'SRAM, bytes':>13}  layers"]
    lines += [
        f"{row['accuracy']:>9.3f}{row['gain']:>+11.3f}{row['sram_bytes']:>13,}  {row['layers']}"
        for row in rows
    ]
    return {"model": arguments.model, "sram_bytes": arguments.sram, "choices": rows}, "\n".join(lines)


def _row(choice: Choice, layers: str) -> dict[str, Any]:
    return {
        "layers": layers,
        "accuracy": choice.score,
        "gain": choice.gain,
        "sram_bytes": choice.memory.total,
        "memory": asdict(choice.memory),
    }
