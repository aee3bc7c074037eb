"""Writes a folder of firmware for a microcontroller: the C runtime, the model's tables, a port, the next commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from sanderling import __version__
from sanderling.commands import options
from sanderling.console import Console
from sanderling.firmware_export import export, package
from sanderling.firmware_export.fit import HeadTraining, render
from sanderling.firmware_export.targets import TARGETS, target
from sanderling.models import zoo

DEFAULT = HeadTraining()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the target, where to, and what memory there is."""
    parser.add_argument("model", help="a model of the zoo, or a .tflite, .onnx or .sanderling file")
    parser.add_argument("--target", required=True, help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--out", required=True, type=Path, help="a folder that is new or empty")
    parser.add_argument("--federation", default="watch", help="whose node it is (default: watch)")
    parser.add_argument("--device", default="mcu-01", help="the node's name in it (default: mcu-01)")
    parser.add_argument(
        "--sram", type=options.byte_count, help="the SRAM there is for it, as 64KB (default: the target's)"
    )
    parser.add_argument(
        "--flash", type=options.byte_count, help="the flash there is for it (default: the target's)"
    )
    parser.add_argument("--cache", type=int, default=DEFAULT.cache_examples, help="examples held to train on")
    parser.add_argument(
        "--batch", type=int, default=DEFAULT.batch_size, help="at most this many examples a step"
    )
    parser.add_argument("--package", choices=package.KINDS, default="cmake", help="for which build system")
    parser.add_argument(
        "--optimize", choices=get_args(export.Optimize), default="size", help="-Os or -O2 (default: size)"
    )
    parser.add_argument(
        "--cmsis-nn", action="store_true", help="Arm's CMSIS-NN kernels in the place of ours: the same bytes"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The report, once the folder is written; FitError, with nothing written, when the model does not fit."""
    chosen = export.Options(
        target=target(arguments.target),
        kind=arguments.package,
        sram_bytes=arguments.sram,
        flash_bytes=arguments.flash,
        training=HeadTraining(cache_examples=arguments.cache, batch_size=arguments.batch),
        optimize=arguments.optimize,
        cmsis_nn=arguments.cmsis_nn,
        federation=arguments.federation,
        device=arguments.device,
    )
    model = zoo.package(arguments.model)
    exported = export.export(model, chosen, name=Path(arguments.model).stem, version=__version__)
    package.write(exported.files, arguments.out)
    console.progress(
        f"{len(exported.files)} files in {arguments.out}; {arguments.out}/README.md has the next commands\n"
    )
    result = {
        **export.plain(exported.report, chosen),
        "out": str(arguments.out),
        "files": sorted(exported.files),
    }
    return result, render(exported.report)
