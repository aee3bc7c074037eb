"""Builds firmware with CMake and GCC, weighs it, and runs it in QEMU.

Folders of firmware are described in targets/CMakeLists.txt. A program that runs in QEMU ends through semihosting with an
exit status, writes its log on UART1, and has its link on UART0 (targets/boards/qemu/board.c).
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sanderling.firmware_export.native import RUNTIME
from sanderling.firmware_export.targets import FOLDER, Target
from sanderling.firmware_export.third_party import MONOCYPHER, source
from sanderling.models.errors import MissingError, SanderlingError, UsageError

PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi picolibc-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "cmake": "cmake",
    "ninja": "ninja-build",
}
STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A linked program and what it takes: `flash_bytes` code, tables and initial values; `sram_bytes` data and zeros, without stack."""

    elf: Path
    flash_bytes: int
    sram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a program ended, what it logged, and what QEMU complained of."""

    status: int
    log: str
    errors: str


def find(tool: str) -> str:
    """The tool's path; MissingError with the apt-get line where it is not installed."""
    path = shutil.which(tool)
    if path is None:
        raise MissingError(f"{tool} is not installed: apt-get install {PACKAGES[tool]}")
    return path


def build(
    target: Target,
    folder: Path,
    *,
    networks: Sequence[Path],
    applications: Sequence[str | Path],
    settings: Mapping[str, str] | None = None,
    sources: Path = FOLDER,
) -> dict[str, Program]:
    """Every application with every folder of tables, as "<application>-<network>", in the build folder `folder`.

    `settings` are the CMake variables that targets/CMakeLists.txt and runtime/CMakeLists.txt name. A folder that was
    built before is brought up to date. SanderlingError with the compiler's words when it does not build.
    """
    if not target.has_port:
        raise UsageError(f"target {target.name} has no port of ours, so that no program can be linked for it")
    variables = {
        "SANDERLING_BOARD": target.name,
        "SANDERLING_RUNTIME": str(RUNTIME),
        "SANDERLING_MONOCYPHER": str(source(MONOCYPHER)),
        "SANDERLING_NETWORK": ";".join(map(str, networks)),
        "SANDERLING_APPLICATIONS": ";".join(map(str, applications)),
        **(settings or {}),
    }
    configure_and_build(sources, folder, target, variables)
    names = [f"{Path(a).name}-{n.name}" for a in applications for n in networks]
    return {name: program(folder / name, target) for name in names}


def configure_and_build(sources: Path, folder: Path, target: Target, variables: Mapping[str, str]) -> str:
    """CMake's project in `sources`, built in `folder`; what the build printed."""
    if target.core is not None:
        find("arm-none-eabi-gcc")
    cmake = find("cmake")
    generator = ("-G", "Ninja") if find("ninja") else ()
    toolchain = (f"-DCMAKE_TOOLCHAIN_FILE={target.toolchain_file}",) if target.toolchain_file else ()
    definitions = [f"-D{name}={value}" for name, value in variables.items()]
    command = [cmake, "-S", str(sources), "-B", str(folder), *generator, *toolchain, *definitions]
    _run(command)
    return _run([cmake, "--build", str(folder)])


def program(elf: Path, target: Target) -> Program:
    """The sizes of a linked program."""
    size = "size" if target.core is None else "arm-none-eabi-size"
    lines = _run([size, "-A", str(elf)]).splitlines()
    sections = {
        parts[0]: int(parts[1]) for parts in map(str.split, lines) if len(parts) == 3 and parts[0][0] == "."
    }
    initial = sections.get(".data", 0) + sections.get(".tdata", 0)
    constant = sum(sections.get(name, 0) for name in (".vectors", ".text", ".rodata"))
    zero = sections.get(".bss", 0)
    return Program(elf=elf, flash_bytes=constant + initial, sram_bytes=initial + zero)


def symbols(elf: Path) -> dict[str, tuple[int, int]]:
    """(address, size) of each named function and object."""
    found = {}
    for line in _run(["arm-none-eabi-nm", "-S", str(elf)]).splitlines():
        address, size, kind, name = [*line.split(), "", ""][:4]
        if kind and name:
            found[name] = (int(address, 16), int(size, 16))
    return found


def sizes_by_object(program: Program) -> dict[str, tuple[int, int]]:
    """(flash, SRAM) bytes of each object file that was linked, from the map: "head.c", "libgcc.a", "startup.c"."""
    found: dict[str, tuple[int, int]] = {}
    text = Path(f"{program.elf}.map").read_text()
    for section, size, path in _PLACED.findall(text.partition("Linker script and memory map")[2]):
        library = re.search(r"(lib(?:c|gcc|m)\.a)\(", path)
        name = library[1] if library else re.sub(r"\.obj\)?$", "", re.split(r"[/(]", path)[-1])
        flash, sram = found.get(name, (0, 0))
        if section in ("bss", "COMMON"):
            sram += int(size, 16)
        elif section in ("data", "tdata"):
            flash, sram = flash + int(size, 16), sram + int(size, 16)
        else:
            flash += int(size, 16)
        found[name] = (flash, sram)
    return found


_PLACED = re.compile(
    r"^ \.?(text|rodata|data|tdata|bss|COMMON|vectors|reset)\S*\s+0x[0-9a-f]{8,16}\s+0x([0-9a-f]+)\s+(\S+)$",
    re.MULTILINE,
)


def run(
    program: Program,
    target: Target,
    *,
    arguments: Sequence[str] = (),
    timeout_s: float = 600.0,
    emulator_options: Sequence[str] = (),
) -> Run:
    """Runs a program to its end, in QEMU or, for the target host, here. SanderlingError when it takes longer."""
    if target.core is None:
        command = [str(program.elf), *arguments]
    else:
        serial = ("-serial", "null", "-serial", "stdio")
        command = [*_emulate(program.elf, target, arguments), *serial, *emulator_options]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise SanderlingError(
            f"{program.elf.name} on {target.name} did not end within {timeout_s} s; it logged {problem.stdout!r}"
        ) from problem
    return Run(status=done.returncode, log=done.stdout, errors=done.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A program that runs in QEMU. Both ports are on 127.0.0.1: the link's bytes, and log and samples (UART1)."""

    process: subprocess.Popen[bytes]
    link_port: int
    log_port: int
    log_file: Path

    @property
    def log(self) -> str:
        """What the program has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def kill(self) -> None:
        """Takes the power away."""
        self.process.kill()
        self.process.wait(STOP_S)


@contextmanager
def emulate(
    elf: Path, target: Target, *, arguments: Sequence[str] = (), emulator_options: Sequence[str] = ()
) -> Iterator[Emulator]:
    """The program in QEMU until the block ends; both of its ports take a connection from the first moment on."""
    with (
        tempfile.TemporaryDirectory(prefix="sanderling-qemu-") as folder,
        socket.create_server(("127.0.0.1", 0)) as link,
        socket.create_server(("127.0.0.1", 0)) as log,
    ):
        log_file = Path(folder) / "log"
        command = [
            *_emulate(elf, target, arguments),
            *("-chardev", f"socket,id=link,fd={link.fileno()},server=on,wait=off"),
            *("-chardev", f"socket,id=log,fd={log.fileno()},server=on,wait=off,logfile={log_file}"),
            *("-serial", "chardev:link", "-serial", "chardev:log"),
            *emulator_options,
        ]
        ports = (link.fileno(), log.fileno())
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=ports) as process:
            try:
                yield Emulator(
                    process=process,
                    link_port=link.getsockname()[1],
                    log_port=log.getsockname()[1],
                    log_file=log_file,
                )
            finally:
                process.kill()


def _emulate(elf: Path, target: Target, arguments: Sequence[str]) -> list[str]:
    if target.emulated_memory is None:
        raise UsageError(f"QEMU has no {target.name} for us; expected a target such as mps2-an386")
    words = [elf.name, *arguments]
    if any(" " in word for word in words):
        raise UsageError(f"arguments hold a space, which the program takes for their end: {words}")
    semihosting = ",".join(
        ["enable=on", "target=native", *("arg=" + word.replace(",", ",,") for word in words)]
    )
    return [
        find("qemu-system-arm"),
        *("-M", target.name, "-m", target.emulated_memory, "-accel", "tcg,thread=single"),
        *("-display", "none", "-monitor", "none", "-nic", "user,restrict=on"),
        *("-semihosting-config", semihosting, "-kernel", str(elf)),
    ]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip()
        raise SanderlingError(f"{Path(command[0]).name} failed: {words[-3000:]}")
    return done.stdout
