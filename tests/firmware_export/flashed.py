"""A flashed model on this machine: what is generated for a board, made in memory, with memory to work in."""

from __future__ import annotations

from typing import Any

import numpy as np

from sanderling.firmware_export.flashed import LARGEST, flashed_model
from sanderling.models.lowering import lower
from sanderling.models.native import Memory, Native
from sanderling.models.package import ModelPackage
from sanderling.models.tail import dense_head


class Flashed:
    """`model` is the C struct; `start` and `scratch` serve any call that wants them."""

    def __init__(self, runtime: Native, package: ModelPackage) -> None:
        self.runtime, self.package = runtime, package
        self.head = dense_head(package.network)
        lowered = lower(package.network)
        self._memory = Memory(runtime)
        struct = flashed_model(
            package.network, lowered, self.head, package.preprocessing, (-LARGEST, LARGEST)
        )
        self.model = self._memory.pointer(struct)
        self._arena = np.zeros(lowered.arena_bytes // 8 + 1, np.int64)
        self.arena = runtime.ffi.cast("int8_t *", self._arena.ctypes.data)
        self.start = runtime.ffi.new("int16_t[]", self.head.dimension)
        self.scratch_bytes = 1 << 17
        self._scratch = np.zeros(self.scratch_bytes // 8, np.int64)
        self.scratch = runtime.ffi.cast("void *", self._scratch.ctypes.data)

    def self_test(self) -> int:
        rows = self.runtime.ffi.new("int8_t[]", self.runtime.lib.SL_SELF_TEST_EXAMPLES * self.head.features)
        memory = {
            "arena": self.arena,
            "rows": rows,
            "start": self.start,
            "scratch": self.scratch,
            "scratch_bytes": self.scratch_bytes,
        }
        return self.runtime.lib.sl_self_test(
            self.model, self.runtime.ffi.new("sl_self_test_memory *", memory)
        )

    def intake(self, federation: str, device: str, capacity: int, held_back: int) -> Intake:
        return Intake(self, federation, device, capacity, held_back)


class Intake:
    """A device's examples in C."""

    def __init__(self, flashed: Flashed, federation: str, device: str, capacity: int, held_back: int) -> None:
        ffi, lib, head = flashed.runtime.ffi, flashed.runtime.lib, flashed.head
        self._flashed, self._kept = flashed, []
        self.struct = ffi.new("sl_intake *")
        self.struct.model, self.struct.arena = flashed.model, flashed.arena
        self._window = self._new("float[]", flashed.model.network.input_size)
        self.struct.window = self._window
        for part in (self.struct.validation, self.struct.test):
            part.capacity = held_back
            part.rows = self._new("int8_t[]", held_back * head.features)
            part.labels = self._new("uint16_t[]", held_back)
        key = lib.sl_intake_key(federation.encode(), device.encode())
        rows, labels = self._new("int8_t[]", capacity * head.features), self._new("uint16_t[]", capacity)
        counts = self._new("sl_class_count[]", head.classes)
        store = ffi.addressof(self.struct.train)
        lib.sl_store_begin(store, rows, labels, counts, capacity, head.features, head.classes, key)

    def _new(self, kind: str, size: int) -> Any:
        self._kept.append(self._flashed.runtime.ffi.new(kind, size))
        return self._kept[-1]

    def add(self, window: np.ndarray, label: int, split: int) -> int:
        ffi = self._flashed.runtime.ffi
        values = np.ascontiguousarray(window, np.float32).ravel()
        about = ffi.new("sl_sample *", {"label": label, "split": split})
        return self._flashed.runtime.lib.sl_intake_add(self.struct, ffi.from_buffer("float[]", values), about)

    def examples(self, split: int) -> tuple[np.ndarray, np.ndarray]:
        ffi, lib = self._flashed.runtime.ffi, self._flashed.runtime.lib
        if split == 0:
            view = lib.sl_store_examples(ffi.addressof(self.struct.train))
        else:
            part = self.struct.validation if split == 1 else self.struct.test
            view = lib.sl_held_back_examples(ffi.addressof(part))
        features = self._flashed.head.features
        rows = np.frombuffer(ffi.buffer(view.rows, view.count * features), np.int8).reshape(
            view.count, features
        )
        return rows.copy(), np.frombuffer(ffi.buffer(view.labels, 2 * view.count), np.uint16).copy()
