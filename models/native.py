"""The C runtime, opened: one library, its declarations read from the headers that it was built from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanderling.models.optional import require

_INCLUDE = re.compile(r'#include "sanderling/(\w+)\.h"')
_PREPROCESSOR = re.compile(r"^[ \t]*#.*(?:\\\n.*)*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Native:
    """`lib` calls the C functions, `ffi` makes C data."""

    ffi: Any
    lib: Any


def open_library(library: Path, headers: Sequence[Path]) -> Native:
    """MissingError where cffi is not installed."""
    cffi = require("cffi", "edge")
    ffi = cffi.FFI()
    ffi.cdef(declarations(headers))
    return Native(ffi=ffi, lib=ffi.dlopen(str(library)))


def declarations(headers: Sequence[Path]) -> str:
    """What the headers declare, each after those it includes."""
    texts = {header.stem: header.read_text() for header in headers}
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in done:
            for needed in _INCLUDE.findall(texts[name]):
                visit(needed)
            done.append(name)

    for name in texts:
        visit(name)
    return "\n".join(_PREPROCESSOR.sub("", texts[name]) for name in done)
