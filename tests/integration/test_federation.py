"""Federations end to end: on mosquitto and on the embedded broker, through kills, and back from the ledger."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow]

LOCKSTEP = ("round.mode=lockstep", "selection.minimum=4")


def replayed(bench) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "sanderling.cli", "replay", str(bench.directory / "run"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def require(kind: str) -> None:
    installed = kind != "mosquitto" or shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if not installed:
        assert "CI" not in os.environ, "mosquitto must be installed in continuous integration"
        pytest.skip("mosquitto is not installed")


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_lockstep_federation_learns_and_its_ledger_gives_its_hash(bench, kind: str) -> None:
    require(kind)
    bench = bench(*LOCKSTEP, "round.count=6", f"broker.kind={kind}")
    bench.start()
    result = bench.result()
    assert f"{kind} broker listens" in (
        bench.processes.log("broker").read_text() + bench.processes.output("broker")
    )
    assert [entry["participants"] for entry in result["rounds"]] == [4] * 6
    assert result["refused"] == {}
    assert result["accuracy"] > result["accuracy_before"] + 0.03
    assert replayed(bench)["model_hash"] == result["model_hash"]


def test_rounds_go_on_when_two_devices_are_killed(bench) -> None:
    bench = bench("round.count=40", "round.deadline_s=5", "selection.minimum=4", "round.quorum=2")
    bench.start()
    bench.wait_for("coordinator", "[round 2/40]")
    bench.kill("watch-04")
    bench.kill("watch-07")
    result = bench.result()
    assert len(result["rounds"]) == 40
    assert result["rounds"][-1]["participants"] == 2
    assert all(entry["committed"] for entry in result["rounds"])
    assert set(result["per_device"]) == {"watch-05", "watch-06"}
    assert replayed(bench)["model_hash"] == result["model_hash"]


def test_a_killed_coordinator_goes_on_and_counts_each_update_once(bench, tmp_path_factory) -> None:
    bench = bench(*LOCKSTEP, "round.count=24")
    bench.start()
    for number in (2, 9, 16):
        bench.wait_for("coordinator", f"[round {number}/24]")
        bench.kill("coordinator")
        bench.start_coordinator()
    result = bench.result()
    assert [entry["round"] for entry in result["rounds"]] == list(range(1, 25))
    assert [entry["participants"] for entry in result["rounds"]] == [4] * 24
    again = replayed(bench)
    assert (again["model_hash"], again["reports"]) == (result["model_hash"], 96)
    undisturbed = type(bench)(tmp_path_factory.mktemp("undisturbed"), [*LOCKSTEP, "round.count=24"])
    try:
        undisturbed.start()
        assert undisturbed.result()["model_hash"] == result["model_hash"]
    finally:
        undisturbed.processes.stop()


def test_a_killed_device_comes_back_and_lockstep_goes_on(bench) -> None:
    bench = bench(*LOCKSTEP, "round.count=20")
    bench.start()
    bench.wait_for("coordinator", "[round 2/20]")
    bench.kill("watch-05")
    bench.start_device("watch-05")
    result = bench.result()
    assert [entry["participants"] for entry in result["rounds"]] == [4] * 20
    assert replayed(bench)["model_hash"] == result["model_hash"]


def test_a_broker_that_goes_away_and_returns_is_waited_for(bench) -> None:
    bench = bench(*LOCKSTEP, "round.count=30")
    bench.start()
    bench.wait_for("coordinator", "[round 2/30]")
    bench.kill("broker")
    bench.wait_for("coordinator", "trying again")
    bench.start_broker()
    result = bench.result()
    assert [entry["participants"] for entry in result["rounds"]] == [4] * 30
    assert replayed(bench)["model_hash"] == result["model_hash"]


def test_a_broker_that_is_not_there_is_named(bench) -> None:
    bench = bench(*LOCKSTEP)
    bench.start_coordinator("--connect-timeout", "1")
    assert bench.processes.running("coordinator").wait(60) == 4
    error = json.loads(bench.processes.output("coordinator"))["error"]
    assert error["exit_status"] == 4
    assert f"no broker at 127.0.0.1:{bench.port}" in error["message"]
    assert "sanderling broker run" in error["message"]
