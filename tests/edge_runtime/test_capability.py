"""Profiles: measured under a clock of our own, read from files as Linux writes them."""

import time
from pathlib import Path

import pytest

from sanderling.edge_runtime.capability import (
    MEASURED_STEPS,
    MEASUREMENTS,
    CapabilityProfile,
    Device,
    TailCost,
    head_steps,
    measure,
    observe,
    power_w,
    read_device,
)
from sanderling.models.errors import UsageError
from sanderling.models.tail import DenseHead

MEMINFO = "MemTotal:        1000000 kB\nMemFree:           20000 kB\nMemAvailable:     300000 kB\n"


class Machine:
    """A clock, and training that takes `step_s` a step and `example_s` an example of it."""

    def __init__(self, step_s: float, example_s: float) -> None:
        self.now, self.step_s, self.example_s = 100.0, step_s, example_s
        self.calls = 0

    def clock(self) -> float:
        return self.now

    def train(self, steps: int, batch: int) -> None:
        self.now += steps * (self.step_s + batch * self.example_s)
        self.calls += 1


def test_time_of_a_step_and_of_an_example_are_told_apart() -> None:
    machine = Machine(0.010, 0.002)
    cost = measure("head", machine.train, machine.clock, memory_bytes=77)
    assert (cost.step_s, cost.example_s) == pytest.approx((0.010, 0.002))
    assert (cost.tail, cost.memory_bytes) == ("head", 77)
    assert machine.calls == 2 * MEASUREMENTS
    assert cost.seconds(3, 40) == pytest.approx(3 * 0.010 + 40 * 0.002)


def test_a_hiccup_of_the_machine_does_not_count() -> None:
    machine = Machine(0.010, 0.002)

    def train(steps: int, batch: int) -> None:
        machine.train(steps, batch)
        if machine.calls in (1, 2, 6):
            machine.now += 5.0

    cost = measure("head", train, machine.clock)
    assert (cost.step_s, cost.example_s) == pytest.approx((0.010, 0.002))


def test_no_cost_is_negative_when_large_batches_are_no_slower() -> None:
    steps_only = Machine(0.010, 0.0)
    cost = measure("head", steps_only.train, steps_only.clock)
    assert cost.step_s == pytest.approx(0.010)
    assert cost.example_s == pytest.approx(0.0)
    examples_only = Machine(0.0, 0.002)
    cost = measure("head", examples_only.train, examples_only.clock)
    assert cost.step_s == pytest.approx(0.0)
    assert min(cost.step_s, cost.example_s) >= 0.0


def test_the_head_is_measured_on_the_training_that_ships() -> None:
    head = DenseHead(
        layer=0,
        features=16,
        classes=3,
        input_scale=0.05,
        input_zero_point=-128,
        weight_scale=0.01,
        bias_input=20,
    )
    began = time.perf_counter()
    cost = measure("head", head_steps(head), time.perf_counter)
    took = time.perf_counter() - began
    assert 0 < cost.seconds(MEASURED_STEPS, MEASURED_STEPS) < took


def test_a_round_that_was_slower_moves_the_cost_by_a_quarter() -> None:
    cost = TailCost(tail="head", step_s=0.010, example_s=0.002)
    expected = cost.seconds(10, 100)  # 0.3 s
    slower = observe(cost, 10, 100, 2 * expected)
    assert (slower.step_s, slower.example_s) == pytest.approx((0.0125, 0.0025))
    assert observe(cost, 10, 100, expected).step_s == pytest.approx(0.010)


def test_a_round_without_steps_says_nothing() -> None:
    cost = TailCost(tail="head", step_s=0.010, example_s=0.002)
    assert observe(cost, 0, 0, 1.0) is cost
    assert observe(cost, 3, 3, 0.0) is cost


def test_the_device_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree" / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    (tmp_path / "meminfo").write_text(MEMINFO)
    device = read_device(tmp_path)
    assert device.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert device.memory_available_bytes == 300_000 * 1024
    assert device.power_w == pytest.approx(3.06)


def test_what_linux_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert read_device(tmp_path) == Device(board=None, memory_available_bytes=None, power_w=None)


@pytest.mark.parametrize(
    ("board", "watts"),
    [
        ("Raspberry Pi 3 Model B Rev 1.2", 2.04),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", 2.55),
        ("NVIDIA Jetson Nano Developer Kit", 10.0),
    ],
)
def test_power_is_that_of_the_longest_name(board: str, watts: float) -> None:
    assert power_w(board) == pytest.approx(watts)


def test_an_unknown_board_has_no_energy_estimate() -> None:
    assert power_w("Acme 9000") is None
    assert power_w(None) is None
    unknown = CapabilityProfile(
        device=Device(board="Acme 9000", memory_available_bytes=None, power_w=None),
        tails=(TailCost(tail="head", step_s=1.0, example_s=0.0),),
    )
    assert unknown.energy_mj(2.0) is None


def test_energy_is_power_times_time() -> None:
    profile = CapabilityProfile(
        device=Device(board="x", memory_available_bytes=None, power_w=3.0),
        tails=(TailCost(tail="head", step_s=1.0, example_s=0.0),),
    )
    assert profile.energy_mj(0.5) == pytest.approx(1500.0)


def test_a_profile_without_a_tail_is_refused() -> None:
    with pytest.raises(UsageError, match="measure the head"):
        CapabilityProfile(device=Device(board=None, memory_available_bytes=None, power_w=None), tails=())
