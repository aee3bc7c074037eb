"""C from other projects, fetched from the package that carries it when it is needed, and pinned by hash.

Nothing of theirs is copied into this repository. A fetched package is kept in the user's cache; uv, which manages this
project's packages, knows where packages come from.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tomllib
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sanderling.models.errors import MissingError
from sanderling.models.native import cache_folder

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePackage:
    """A package on the index, and the files of it that we use: what they are called there, what they become here."""

    name: str
    version: str
    kind: str  # "sdist" or "wheel"
    sha256: str
    license: str
    files: tuple[str, ...]  # shell patterns of paths inside, without the first folder of an sdist


MONOCYPHER = SourcePackage(
    name="pymonocypher",
    version="4.0.3.4",
    kind="sdist",
    sha256="5e56e3d3eb770a53e0b9f6274146663c11a11f3d0de5cd48e3be0428d1b07a4a",
    license="BSD-2-Clause or CC0-1.0",
    files=("monocypher.c", "monocypher.h"),
)

CMSIS_NN = SourcePackage(
    name="bakenn",
    version="1.0.0",
    kind="wheel",
    sha256="b8251e71a8fc39252df0d308fe9a5837bd86f7a31f1596a7dd4a319196f30e56",
    license="Apache-2.0",
    files=("vendor/cmsis_*/Include/*.h", "vendor/cmsis_nn/Source/*/*.c", "vendor/cmsis_*/LICENSE.txt"),
)  # CMSIS-NN 4.0.0 and two headers of CMSIS-Core 5.9.0, in bakenn/backend/cmsis_nn/vendor


def source(package: SourcePackage) -> Path:
    """The folder with the package's files, fetched at the first call. MissingError says what stood in the way."""
    folder = cache_folder() / f"{package.name}-{package.version}-{package.sha256[:12]}"
    if not folder.is_dir():
        archive = _download(package)
        found = hashlib.sha256(archive).hexdigest()
        if found != package.sha256:
            raise MissingError(
                f"{package.name} {package.version} has SHA-256 {found}, expected {package.sha256}; "
                "the index gave another file than the one this release was made with: do not use it"
            )
        _unpack(package, archive, folder)
    return folder


def _download(package: SourcePackage) -> bytes:
    pin = f"{package.name}=={package.version}"
    command = [_uv(), "pip", "compile", "-", "--no-deps", "--quiet", "--format", "pylock.toml"]
    done = subprocess.run(command, input=pin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(
            f"{pin} is not to be had: {done.stderr.strip()[-300:]}; check the connection to the index"
        )
    (locked,) = tomllib.loads(done.stdout)["packages"]
    files = locked["wheels"] if package.kind == "wheel" else [locked["sdist"]]
    urls = [file["url"] for file in files if file["hashes"]["sha256"] == package.sha256]
    if not urls:
        raise MissingError(
            f"the index has no {package.kind} of {pin} with SHA-256 {package.sha256}; use one that has it"
        )
    try:
        with urllib.request.urlopen(urls[0], timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError) as problem:
        raise MissingError(f"{pin} cannot be fetched: {problem}; check the connection") from problem
    return content


def _uv() -> str:
    # A virtual environment made by `start` has uv in .uv/bin beside it.
    found = shutil.which("uv") or shutil.which("uv", path=Path(".uv/bin").absolute())
    if found is None:
        raise MissingError("uv is not installed; it fetches C sources: pip install uv")
    return found


def _unpack(package: SourcePackage, archive: bytes, folder: Path) -> None:
    """Only the files that are named, into a folder that appears whole."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    for path, content in _members(package, archive):
        if any(path.match(pattern) for pattern in package.files):
            target = partial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    if not partial.is_dir():
        raise MissingError(f"{package.name} {package.version} holds none of {package.files}")
    try:
        partial.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(partial)


def _members(package: SourcePackage, archive: bytes) -> list[tuple[PurePosixPath, bytes]]:
    if package.kind == "wheel":
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            return [(PurePosixPath(name), wheel.read(name)) for name in wheel.namelist() if name[-1] != "/"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        files = [
            (PurePosixPath(*PurePosixPath(m.name).parts[1:]), sdist.extractfile(m))
            for m in sdist
            if m.isfile()
        ]
        return [(path, file.read()) for path, file in files if file is not None and ".." not in path.parts]
