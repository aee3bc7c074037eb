"""Linux agents and Cortex-M nodes of two cores in QEMU train together, to the hash of the all-Linux run."""

import json
import os

import pytest

from sanderling.broker.mosquitto import find_mosquitto
from tests.firmware_export.tools import need

pytestmark = [pytest.mark.network, pytest.mark.qemu, pytest.mark.slow]

DEVICES = ("watch-04", "watch-05", "watch-06", "watch-07")
NODES = {"watch-04": "mps2-an386", "watch-07": "mps2-an385"}
SETTINGS = ("round.mode=lockstep", "round.count=4", "broker.kind=mosquitto", "selection.minimum=4")


@pytest.mark.parametrize("update", ["update.mode=mask"])
def test_boards_and_linux_devices_come_to_the_hash_of_linux_devices_alone(bench, update: str) -> None:
    if find_mosquitto() is None:
        assert "CI" not in os.environ, "mosquitto must be installed in continuous integration"
        pytest.skip("mosquitto is not installed")
    need("arm-none-eabi-gcc", "qemu-system-arm", "cmake", "ninja")
    linux = bench(*SETTINGS, update)
    linux.start()
    expected = linux.result(300)
    linux.processes.stop()

    mixed = bench(*SETTINGS, update)
    mixed.start_broker()
    mixed.start_coordinator()
    for device in DEVICES:
        if device not in NODES:
            mixed.start_device(device)
    for device, target in NODES.items():
        mixed.start_node(device, target)
    result = mixed.result(900)
    assert result["model_hash"] == expected["model_hash"]
    assert result["refused"] == {}
    assert [entry["participants"] for entry in result["rounds"]] == [4] * 4
    assert {device: result["per_device"][device] for device in DEVICES} == expected["per_device"]
    for device in NODES:
        assert mixed.processes.running(device).wait(30) == 0
        told = json.loads(mixed.processes.output(device))
        assert told["log"] == ["samples complete", "connected", "finished"]
