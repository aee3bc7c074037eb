"""The C runtime as a shared library for the machine at hand: built by its C compiler, called through cffi.

The same sources run on a microcontroller. So tests hold them against the NumPy reference, and a Linux board trains with them.
Headers of the runtime are plain enough that cffi reads them once their preprocessor lines are gone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sanderling.firmware_export.third_party import MONOCYPHER, source
from sanderling.models.errors import MissingError, SanderlingError
from sanderling.models.native import HEADERS, LIBRARY, cache_folder, default_folder

RUNTIME = Path(__file__).parent / "runtime"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


def library(*, flags: Sequence[str] = ("-O2",)) -> Path:
    """The built library; a cached one where sources, compiler and flags are the same. MissingError without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingError("no C compiler: apt-get install gcc libc6-dev")
    monocypher = source(MONOCYPHER)
    files = [*sources(), monocypher / "monocypher.c"]
    built = cache_folder() / "native" / f"libsanderling-{_fingerprint(compiler, flags, monocypher)}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        partial = built.with_suffix(f".{os.getpid()}")
        include = ("-I", RUNTIME / "include", "-isystem", monocypher)
        _compile([compiler, *WARNINGS, *flags, "-fPIC", "-shared", *include, *files, "-o", partial])
        partial.rename(built)
    return built


def install(folder: Path | None = None) -> Path:
    """Builds the library to where the agent looks for it, its headers beside it, and returns its path.

    The folder changes from one version to the next at once. MissingError without a compiler.
    """
    folder = default_folder() if folder is None else folder
    built = library()
    folder.parent.mkdir(parents=True, exist_ok=True)
    version = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    target = version / HEADERS / "sanderling"
    target.mkdir(parents=True)
    shutil.copy(built, version / LIBRARY)
    for header in headers():
        shutil.copy(header, target)
    before = folder.resolve() if folder.is_symlink() else None
    link = version.with_suffix(".link")
    link.symlink_to(version.name, target_is_directory=True)
    link.replace(folder)
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return folder / LIBRARY


def sources() -> list[Path]:
    """The runtime's C files."""
    return sorted(RUNTIME.glob("src/*.c"))


def headers() -> list[Path]:
    """The runtime's headers, the shared ones first."""
    return sorted(RUNTIME.glob("include/sanderling/*.h"))


def _fingerprint(compiler: str, flags: Sequence[str], monocypher: Path) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.blake2b(
        repr((version, list(flags), platform.machine(), monocypher.name)).encode(), digest_size=8
    )
    for file in (*headers(), *sources()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _compile(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SanderlingError(f"the C runtime does not build: {done.stderr.strip()[:3000]}")
