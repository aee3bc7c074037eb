"""The C runtime, opened: one library, its declarations read from the headers that it was built from.

`NativeNetwork` runs a network with its kernels, to the bytes of models/inference.py: the same structs that the exporter
writes into firmware, made in memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sanderling.models.c_data import Function, Struct, Table, Value
from sanderling.models.errors import MissingError
from sanderling.models.lowering import KERNELS_VERSION, Place, lower
from sanderling.models.network import Network
from sanderling.models.optional import require

LIBRARY: Final = "libsanderling.so"
HEADERS: Final = "include"  # the folder beside the library

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


def default_library() -> Path | None:
    """The library that `sanderling native build` made here, or that SANDERLING_NATIVE names; None without one.

    An empty SANDERLING_NATIVE stands for none. MissingError where it names what is no file.
    """
    named = os.environ.get("SANDERLING_NATIVE")
    if named is not None:
        if named and not Path(named).is_file():
            raise MissingError(f"SANDERLING_NATIVE names {named!r}: there is no such file")
        return Path(named) if named else None
    built = default_folder() / LIBRARY
    return built if built.is_file() else None


def default_folder() -> Path:
    """Where the library of this machine and its headers are kept."""
    return cache_folder() / "runtime"


def cache_folder() -> Path:
    """Where what was fetched or built for this user is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sanderling"


def open_default() -> Native:
    """MissingError where there is no library, none of ours, or one of another version; says what to do."""
    library = default_library()
    if library is None:
        raise MissingError("the C runtime is not built here: run `sanderling native build`")
    headers = sorted((library.parent / HEADERS / "sanderling").glob("*.h"))
    if not headers:
        raise MissingError(f"{library}: its headers must lie beside it, in {HEADERS}/sanderling")
    try:
        native = open_library(library, headers)
    except OSError as error:
        raise MissingError(
            f"{library} cannot be opened ({error}): run `sanderling native build` on this machine"
        ) from error
    if native.lib.SL_KERNELS_VERSION != KERNELS_VERSION:
        raise MissingError(f"{library} is of another version: run `sanderling native build` again")
    return native


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


class Memory:
    """C data made of a tree, and kept as long as this is."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._kept: list[Any] = []
        self._made: dict[int, Any] = {}  # by the identity of a Table: tables that are shared are made once

    def pointer(self, struct: Struct) -> Any:
        """The struct in memory."""
        return self._keep(self._native.ffi.new(f"{struct.ctype} *", self._value(struct)))

    def _keep(self, data: Any) -> Any:
        self._kept.append(data)
        return data

    def _value(self, value: Value) -> Any:
        match value:
            case Struct(fields=fields):
                return {name: self._value(field) for name, field in fields.items()}
            case tuple():
                return [self._value(item) for item in value]
            case Function(name=name):
                return self._native.ffi.addressof(self._native.lib, name)
            case Table():
                return self._table(value)
            case None:
                return self._native.ffi.NULL
        return value

    def _table(self, table: Table) -> Any:
        if id(table) not in self._made:
            self._made[id(table)] = self._keep(self._array(table))
            self._kept.append(table)  # so that no other takes its identity
        return self._made[id(table)]

    def _array(self, table: Table) -> Any:
        kind = f"{table.ctype}[]"
        if isinstance(table.values, tuple):
            return self._native.ffi.new(kind, [self._value(item) for item in table.values])
        array = self._native.ffi.new(kind, len(table.values))
        self._native.ffi.memmove(array, np.ascontiguousarray(table.values), table.values.nbytes)
        return array


class NativeNetwork:
    """A network on the C kernels. ModelFormatError where they cannot express it. Not for several threads at once."""

    def __init__(self, native: Native, network: Network) -> None:
        self._native, self._network = native, network
        self._lowered = lower(network)
        self._memory = Memory(native)
        self._table = self._memory.pointer(self._lowered.network)
        self._arena = np.zeros(-(-self._lowered.arena_bytes // 16) * 16 // 4, np.int32).view(np.int8)
        self._pointer = native.ffi.cast("int8_t *", self._arena.ctypes.data)

    def run(self, inputs: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """As `inference.run`: arrays (n, ...) in, one (n, ...) out for each output."""
        last = len(self._network.layers)
        return self._until(last, inputs, self._lowered.outputs)

    def features(self, inputs: NDArray[Any] | Sequence[NDArray[Any]], layer_index: int) -> NDArray[np.int8]:
        """As `inference.features`: what enters layer `layer_index`, flattened, int8 (n, F)."""
        return self.activations(inputs, layer_index, self._network.layers[layer_index].inputs[:1])

    def activations(
        self,
        inputs: NDArray[Any] | Sequence[NDArray[Any]],
        layer_index: int,
        tensors: tuple[int, ...],
    ) -> NDArray[np.int8]:
        """As `inference.activations`, for tensors that some layer before reads no more than there."""
        places = [place for place in (self._lowered.places[i] for i in tensors) if place is not None]
        if len(places) < len(tensors):
            raise ValueError("a constant is no activation")
        values = self._until(layer_index, inputs, places)
        return np.concatenate([v.reshape(len(v), math.prod(v.shape[1:])) for v in values], axis=1)

    def _until(
        self, layer: int, inputs: NDArray[Any] | Sequence[NDArray[Any]], wanted: Sequence[Place]
    ) -> list[NDArray[Any]]:
        arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        self._check(arrays)
        given = [
            (self._view(place), values.reshape(len(values), math.prod(place.shape)))
            for place, values in zip(self._lowered.inputs, arrays, strict=True)
        ]
        count = len(arrays[0])
        out = [(np.empty((count, math.prod(p.shape)), p.dtype), self._view(p)) for p in wanted]
        last = self._lowered.first_node_of_layer[layer]
        run, table, arena = self._native.lib.sl_run, self._table, self._pointer
        for i in range(count):
            for place, values in given:
                place[:] = values[i]
            run(table, 0, last, arena)
            for rows, place in out:
                rows[i] = place
        return [
            rows.reshape(count, *(p.shape[1:] if p.shape[:1] == (1,) else p.shape))
            for (rows, _), p in zip(out, wanted, strict=True)
        ]

    def _view(self, place: Place) -> NDArray[Any]:
        size = math.prod(place.shape) * np.dtype(place.dtype).itemsize
        return self._arena[place.offset : place.offset + size].view(place.dtype)

    def _check(self, arrays: list[NDArray[Any]]) -> None:
        places = self._lowered.inputs
        if len(arrays) != len(places):
            raise ValueError(f"network {self._network.name!r} has {len(places)} inputs, got {len(arrays)}")
        for place, array in zip(places, arrays, strict=True):
            expected = place.shape[1:] if place.shape[:1] == (1,) else place.shape
            if array.dtype != np.dtype(place.dtype) or array.shape[1:] != expected or array.ndim < 1:
                raise ValueError(
                    f"expected {place.dtype} (n, {', '.join(map(str, expected))}), "
                    f"got {array.dtype} {array.shape}"
                )
        if any(len(array) != len(arrays[0]) for array in arrays):
            raise ValueError(f"inputs of different lengths: {[len(array) for array in arrays]}")
