"""Training and evaluation of a dense head by the C runtime: `train_head` and `evaluate_head` with the same bytes.

The C code is what a microcontroller runs; here it makes a Linux board quicker. models/training.py is the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import SanderlingError, UsageError
from sanderling.models.native import Memory, Native, open_default
from sanderling.models.random_bits import Key
from sanderling.models.tail import DenseHead
from sanderling.models.tail_lowering import head_struct
from sanderling.models.training import Evaluation, LocalTraining, train_head
from sanderling.models.updates import Int32Vector


def open_training() -> NativeTraining:
    """Of this machine's library, held against the reference before it is used: a compiler may be at fault.

    MissingError without a library that can be opened, SanderlingError for one that gives other bytes.
    """
    found = NativeTraining(open_default())
    scale = float(np.float32(0.01))
    head = DenseHead(
        layer=0,
        features=9,
        classes=3,
        input_scale=scale,
        input_zero_point=-7,
        weight_scale=scale,
        bias_input=100,
    )
    rng = np.random.default_rng(0)
    examples = rng.integers(-128, 128, (12, 9)).astype(np.int8), rng.integers(0, 3, 12)
    theta = rng.integers(-9000, 9000, head.dimension).astype(np.int32)
    for batch_size in (1, 5):
        training = LocalTraining(
            epochs=3, batch_size=batch_size, learning_rate_q16=9000, proximal_mu_q16=300 * (batch_size - 1)
        )
        expected, given = (
            learn(head, theta, *examples, training, (1, 2)) for learn in (train_head, found.train_head)
        )
        if not np.array_equal(expected, given):
            raise SanderlingError("the C runtime trains to other bytes than the reference on this machine")
    return found


class NativeTraining:
    """The C library's head training."""

    def __init__(self, native: Native) -> None:
        self._native, self._ffi, self._lib = native, native.ffi, native.lib

    def train_head(
        self,
        head: DenseHead,
        theta: Int32Vector,
        features: NDArray[np.int8],
        labels: NDArray[np.int64],
        training: LocalTraining,
        key: Key,
    ) -> Int32Vector:
        """As models.training.train_head. UsageError names the C runtime's reason where it refuses."""
        table, examples = self._head(head), self._examples(features, labels)
        start, trained = theta.astype(np.int16), np.empty(theta.size, np.int16)
        status = self._lib.sl_head_train(
            table,
            self.training(training),
            key,
            examples,
            self._ffi.from_buffer("int16_t[]", start),
            self._ffi.from_buffer("int16_t[]", trained, require_writable=True),
            self._scratch(table, training.batch_size, labels.size),
        )
        if status != 0:
            name = self._ffi.string(self._lib.sl_status_name(status)).decode()
            raise UsageError(f"the C runtime does not train this head: {name}; use the NumPy backend")
        return trained.astype(np.int32)

    def evaluate_head(
        self, head: DenseHead, theta: Int32Vector, features: NDArray[np.int8], labels: NDArray[np.int64]
    ) -> Evaluation:
        """As models.training.evaluate_head, the loss to 1/1000."""
        table, found = self._head(head), self._ffi.new("sl_evaluation *")
        values = self._ffi.from_buffer("int16_t[]", theta.astype(np.int16))
        scratch = self._scratch(table, 1, 0)
        self._lib.sl_head_evaluate(table, values, self._examples(features, labels), scratch, found)
        return Evaluation(correct=found.correct, count=found.count, mean_loss=found.loss_milli / 1000)

    def training(self, training: LocalTraining) -> Any:
        """An `sl_training`."""
        fields = ("epochs", "batch_size", "learning_rate_q16", "proximal_mu_q16")
        return self._ffi.new("sl_training *", {field: getattr(training, field) for field in fields})

    def _head(self, head: DenseHead) -> Any:
        return Memory(self._native).pointer(head_struct(head))

    def _examples(self, features: NDArray[np.int8], labels: NDArray[np.int64]) -> Any:
        rows = self._ffi.from_buffer("int8_t[]", np.ascontiguousarray(features))
        classes = self._ffi.from_buffer("uint16_t[]", labels.astype(np.uint16))
        examples = self._ffi.new("sl_examples *", {"rows": rows, "labels": classes, "count": labels.size})
        self._alive = rows, classes  # as long as the struct that points to them
        return examples

    def _scratch(self, head: Any, batch_size: int, count: int) -> Any:
        size = self._lib.sl_head_scratch_bytes(head, batch_size, count)
        return self._ffi.new("uint32_t[]", size // 4 + 1)
