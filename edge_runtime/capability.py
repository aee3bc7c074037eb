"""What this device can do: how long a training step takes here, how much memory is free, what a second costs in energy.

Time is measured, on the very functions that train. Energy is a model, not a measurement: the board's published power
times the time. Raspberry Pi: "typical bare-board active current consumption" of its documentation, at 5.1 V. Jetson:
the power budget of its default nvpmodel mode, an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sanderling.models.errors import UsageError
from sanderling.models.random_bits import derive_key
from sanderling.models.tail import DenseHead
from sanderling.models.training import MAX_BATCH_SIZE, LocalTraining, train_head

Clock = Callable[[], float]  # seconds, monotonic
Train = Callable[[int, int], None]  # steps, examples in each

MEASURED_STEPS = 64  # so that what a call takes besides is below a tenth
MEASUREMENTS = 5  # of which the least counts, since what disturbs only adds; `observe` learns what is usual
SMOOTHING = 0.25  # weight of a new round against what was known

# by how /proc/device-tree/model begins
POWER_W = {
    "Raspberry Pi 5": 5.1 * 0.8,
    "Raspberry Pi 4 Model B": 5.1 * 0.6,
    "Raspberry Pi 3 Model B Plus": 5.1 * 0.5,
    "Raspberry Pi 3 Model B": 5.1 * 0.4,
    "Raspberry Pi 3 Model A Plus": 5.1 * 0.35,
    "Raspberry Pi Zero 2 W": 5.1 * 0.35,
    "Raspberry Pi Zero W": 5.1 * 0.15,
    "NVIDIA Jetson Nano": 10.0,
    "NVIDIA Jetson Orin Nano": 15.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TailCost:
    """What training one choice of last layers takes: `step_s` a step, and `example_s` for each example in it."""

    tail: str  # "head", or a deeper tail's name
    step_s: float
    example_s: float
    memory_bytes: int = 0  # beyond what the agent holds anyway

    def seconds(self, steps: int, examples: int) -> float:
        """For `steps` steps over `examples` examples in all."""
        return steps * self.step_s + examples * self.example_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What the operating system tells; None where it does not."""

    board: str | None
    memory_available_bytes: int | None
    power_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityProfile:
    """The device, and what each tail costs on it, from the shallowest to the deepest."""

    device: Device
    tails: tuple[TailCost, ...]

    def __post_init__(self) -> None:
        if not self.tails:
            raise UsageError("a capability profile needs what at least one tail costs: measure the head")

    def energy_mj(self, seconds: float) -> float | None:
        """The estimate for so many seconds of training; None on an unknown board."""
        return None if self.device.power_w is None else 1000 * self.device.power_w * seconds


def read_device(proc: Path = Path("/proc")) -> Device:
    """The device as Linux describes it."""
    board = _read(proc / "device-tree" / "model").strip("\0 \n") or None
    available = [
        line.split() for line in _read(proc / "meminfo").splitlines() if line.startswith("MemAvailable:")
    ]
    return Device(
        board=board,
        memory_available_bytes=1024 * int(available[0][1]) if available else None,
        power_w=power_w(board),
    )


def power_w(board: str | None) -> float | None:
    """The board's published power, None for one not in the table."""
    known = [name for name in POWER_W if board is not None and board.startswith(name)]
    return POWER_W[max(known, key=len)] if known else None


def measure(tail: str, train: Train, clock: Clock, *, memory_bytes: int = 0) -> TailCost:
    """The cost of a tail from steps of one example and steps of MAX_BATCH_SIZE, in turn."""
    runs = [
        (_step_seconds(train, 1, clock), _step_seconds(train, MAX_BATCH_SIZE, clock))
        for _ in range(MEASUREMENTS)
    ]
    single, full = (min(seconds) for seconds in zip(*runs, strict=True))
    example_s = max(0.0, (full - single) / (MAX_BATCH_SIZE - 1))
    return TailCost(
        tail=tail, step_s=max(0.0, single - example_s), example_s=example_s, memory_bytes=memory_bytes
    )


def head_steps(head: DenseHead) -> Train:
    """An epoch of that head's training on made-up features: a step's time does not depend on their values."""
    theta, key = np.zeros(head.dimension, np.int32), derive_key("capability")

    def train(steps: int, batch: int) -> None:
        training = LocalTraining(epochs=1, batch_size=batch, learning_rate_q16=655)
        labels = np.arange(steps * batch) % head.classes
        train_head(head, theta, np.zeros((labels.size, head.features), np.int8), labels, training, key)

    return train


def observe(cost: TailCost, steps: int, examples: int, seconds: float) -> TailCost:
    """The cost after a round that took `seconds`: a real round is the better measurement, and it is free."""
    expected = cost.seconds(steps, examples)
    if steps < 1 or expected <= 0 or seconds <= 0:
        return cost
    factor = 1 + SMOOTHING * (seconds / expected - 1)
    return replace(cost, step_s=cost.step_s * factor, example_s=cost.example_s * factor)


def _step_seconds(train: Train, batch: int, clock: Clock) -> float:
    started = clock()
    train(MEASURED_STEPS, batch)
    return (clock() - started) / MEASURED_STEPS


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
