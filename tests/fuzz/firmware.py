"""The C runtime's parsers under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/firmware.py --count 10000000 --json

Each target of firmware_*.c says what must hold. `--count` executions are shared out among them; exit status 1 when one of
them broke a law or was stopped by a sanitizer (its input is then kept in the folder named), 4 without clang.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sanderling.firmware_export.native import RUNTIME
from sanderling.firmware_export.third_party import MONOCYPHER, source

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors"
FLAGS = ("-std=gnu99", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
MAX_INPUT_BYTES = 2048
HANG_S = 120  # an input takes microseconds, but libFuzzer counts wall time, and a busy machine may stop it for half a minute

# What each target needs of the runtime, and its part of the executions.
SOURCES = {
    "plan": ("cbor.c", "messages.c"),
    "mqtt": ("mqtt.c",),
    "frame": ("frame.c", "storage.c"),
    "download": ("download.c", "cbor.c", "messages.c"),
    "codec": ("codec.c",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one target. `finding` is what the fuzzer or a sanitizer said, empty when all was well."""

    target: str
    executions: int
    seconds: float
    coverage_edges: int
    corpus: int
    finding: str


def find_clang() -> str | None:
    return shutil.which("clang") or shutil.which("clang-14")


def build(target: str, folder: Path) -> Path:
    """The fuzzer of one target."""
    clang, monocypher = find_clang(), source(MONOCYPHER)
    assert clang is not None
    fuzzer = folder / target
    files = [HERE / f"firmware_{target}.c", *(RUNTIME / "src" / name for name in SOURCES[target])]
    files += [monocypher / "monocypher.c"] if target == "download" else []
    include = ("-I", HERE, "-I", RUNTIME / "include", "-I", RUNTIME / "src", "-isystem", monocypher)
    command = [clang, *FLAGS, *include, *files, "-o", fuzzer]
    subprocess.run([str(part) for part in command], check=True)
    return fuzzer


def seeds(target: str) -> list[bytes]:
    """Inputs that are worth mutating: the golden vectors, behind the choices that a target reads first."""
    messages = json.loads((VECTORS / "messages.json").read_text())["accepted"]
    if target == "plan":
        return [
            bytes([16]) + bytes.fromhex(case["data"]) for case in messages if case["type"] == "round plan"
        ]
    if target == "download":
        return [
            bytes([0x18, 255]) + bytes.fromhex(case["data"])
            for case in messages
            if case["type"] == "model chunk"
        ] + [bytes([3]) * 900]
    if target == "codec":
        accepted = json.loads((VECTORS / "codec.json").read_text())["accepted"]
        return [
            bytes([travels << 1 | (d - 1) & 1, d - 1 >> 1, len(case["coordinates"])])
            + bytes.fromhex(case["travelling" if travels else "shared"])
            for case in accepted
            for travels in (0, 1)
            if (d := case["dimension"]) <= 512 and len(case["coordinates"]) <= 255
        ]
    if target == "mqtt":
        connack, piece = (
            bytes([9 | 16, 12, 4]) + bytes.fromhex("20020000"),
            bytes.fromhex("32090003612f620007787978"),
        )
        return [
            connack + bytes([12, len(piece)]) + piece + bytes([7, 25]),
            connack + bytes([3, 25, 12, 5]) + bytes.fromhex("9003000101"),
            connack + bytes([5, 30, 25, 12, 4]) + bytes.fromhex("40020001"),
        ]
    return [
        bytes([0x26, 0, 0, 0]) + bytes([2, 100, 0xFB, 0x46, 0, 0, 20]) + b"stream" * 4 + bytes([0xFB, 1, 99])
    ]


def fuzz(target: str, count: int, seed: int, folder: Path) -> Figures:
    """Runs one target for `count` executions; a broken law or a sanitizer's word is a finding."""
    corpus = folder / f"{target}-corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data)
    started = time.perf_counter()
    command = [
        build(target, folder),
        corpus,
        f"-runs={count}",
        f"-seed={seed}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={folder}/{target}-",
        "-print_final_stats=1",
        f"-timeout={HANG_S}",
        "-rss_limit_mb=2048",
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    text = done.stderr
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    coverage = re.findall(r"cov: (\d+)", text)
    return Figures(
        target=target,
        executions=int(executed[-1]) if executed else 0,
        seconds=round(time.perf_counter() - started, 1),
        coverage_edges=int(coverage[-1]) if coverage else 0,
        corpus=len(list(corpus.iterdir())),
        finding=_finding(text) if done.returncode else "",
    )


def _finding(text: str) -> str:
    found = re.search(r"^.*(broken: |ERROR: |runtime error: )", text, re.MULTILINE)
    return text[found.start() :][:3000] if found else text[-3000:]


def run(count: int, seed: int, targets: tuple[str, ...] = tuple(SOURCES)) -> tuple[list[Figures], Path]:
    """All targets, `count` executions among them; and the folder of what was found."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-firmware-"))
    figures = [fuzz(target, -(-count // len(targets)), seed, folder) for target in targets]
    if not any(each.finding for each in figures):
        shutil.rmtree(folder)
    return figures, folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=tuple(SOURCES), action="append")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if find_clang() is None:
        print("clang is not installed: apt-get install clang", file=sys.stderr)
        return 4
    figures, folder = run(arguments.count, arguments.seed, tuple(arguments.target or SOURCES))
    findings = [each for each in figures if each.finding]
    summary = {
        "executions": sum(each.executions for each in figures),
        "seed": arguments.seed,
        "sanitizers": "address, undefined",
        "findings": len(findings),
        "targets": [asdict(each) for each in figures],
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        for each in figures:
            print(
                f"{each.target}: {each.executions:,} executions, {each.coverage_edges} edges, {each.seconds} s"
            )
    for each in findings:
        print(f"{each.target}, input kept in {folder}:\n{each.finding}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
