"""The agent in a process of its own or in a thread, against real brokers, with a scripted coordinator."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sanderling.broker.messages import (
    EvaluationMessage,
    UpdateMessage,
)
from sanderling.broker.mosquitto import find_mosquitto
from sanderling.broker.run import start_broker
from sanderling.edge_runtime.byte_budget import ByteAccount, ByteBudget
from sanderling.edge_runtime.memory import Memory
from sanderling.edge_runtime.service import AgentSettings, run
from sanderling.edge_runtime.sources import SourceSettings
from sanderling.edge_runtime.storage import Storage
from tests.scripted_coordinator import TOPICS, WAIT_S, Coordinator

pytestmark = pytest.mark.network


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request, tmp_path):
    if request.param == "mosquitto" and find_mosquitto() is None:
        assert "CI" not in os.environ, "mosquitto must be installed in continuous integration"
        pytest.skip("mosquitto is not installed")
    with start_broker(request.param, data_dir=tmp_path / "broker") as started:
        yield started


@pytest.fixture
def coordinator(broker) -> Iterator[Coordinator]:
    one = Coordinator(broker.port)
    yield one
    one.close()


@pytest.fixture
def settings(broker, tmp_path, make) -> AgentSettings:
    path = make.write_data(tmp_path / "own.npz")
    return AgentSettings(
        federation="bench",
        device_id="dev-1",
        host="127.0.0.1",
        port=broker.port,
        state_dir=tmp_path / "dev-1",
        source=SourceSettings(name="folder", client="dev-1", options={"path": str(path)}),
    )


@contextmanager
def running(settings: AgentSettings) -> Iterator[list[str]]:
    """The agent in a thread, stopped at the end; its log."""
    stop, lines = threading.Event(), list[str]()
    thread = threading.Thread(target=run, args=(settings, stop, lines.append))
    thread.start()
    try:
        yield lines
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_a_metered_agent_answers_as_long_as_its_bytes_last_then_rests_and_never_exceeds_them(
    settings, coordinator, package, model, plan
):
    budget = ByteBudget(per_day=10_000)
    with running(replace(settings, bytes=budget, keepalive_s=600)) as lines:
        coordinator.announce(package, plan, model)
        number = 1
        while coordinator.either(number) == TOPICS.update("dev-1"):
            number += 1
            coordinator.publish(TOPICS.plan, replace(plan, round=number).encode())
        assert number > 2
        rests = coordinator.status(lambda status: status.state == "offline")
        # Where a plan took the last bytes it may spend, its will speaks for it, which does not know why; its log does.
        give_up = time.monotonic() + WAIT_S
        told = ("the day's budget holds", "the byte budget is spent")
        while not any(words in line for line in [rests.detail, *lines] for words in told):
            assert time.monotonic() < give_up, lines
            time.sleep(0.01)
    assert any(line.startswith("bytes of this day: ") for line in lines)
    with Storage(settings.state_dir) as storage:
        used = ByteAccount(budget, storage, time.time).used().day_bytes
    assert 5_000 < used <= 10_000


def test_an_agent_takes_part_from_the_first_round_to_the_evaluation(
    coordinator, settings, package, model, plan, make
):
    last = make.next_model(model)
    with running(settings) as log:
        status = coordinator.status(lambda s: s.state == "online")
        assert status.num_examples == 36
        coordinator.announce(package, plan, model)
        update = UpdateMessage.decode(coordinator.update())
        assert (update.round, update.num_examples, update.validation_count) == (1, 36, 12)
        status = coordinator.status(lambda s: s.backend != "")
        assert (status.backend, status.arithmetic_drift_lsb) == ("reference", None)
        coordinator.announce(package, replace(plan, round=2, model=make.reference_to(last)), last)
        update = UpdateMessage.decode(coordinator.update())
        assert (update.round, update.model_hash_prefix) == (2, last.model_hash[:8])
        references = (make.reference_to(model), make.reference_to(last))
        end = replace(plan, round=2, phase="finished", cohort=(), evaluate=references)
        coordinator.announce(package, end, model, last)
        payload = coordinator.wait(TOPICS.evaluation("dev-1"))
        results = EvaluationMessage.decode(payload).results
        assert [result.model_hash for result in results] == [model.model_hash, last.model_hash]
        assert [result.examples for result in results] == [12, 12]
    assert coordinator.status(lambda s: s.state == "offline").num_examples == 36
    assert not any("refused" in line for line in log)


def test_two_devices_answer_with_their_own_bytes(coordinator, settings, package, model, plan):
    other = replace(
        settings,
        device_id="dev-2",
        state_dir=settings.state_dir.with_name("dev-2"),
        source=replace(settings.source, client="dev-2"),
    )
    with running(settings), running(other):
        coordinator.announce(package, replace(plan, cohort=("dev-1", "dev-2")), model)
        first, second = coordinator.update("dev-1"), coordinator.update("dev-2")
    assert UpdateMessage.decode(first).payload != UpdateMessage.decode(second).payload


def test_fast_arithmetic_reports_its_backend_and_drift(coordinator, settings, package, model, plan):
    with running(settings):
        coordinator.announce(package, replace(plan, arithmetic="fast"), model)
        coordinator.update()
        status = coordinator.status(lambda s: s.backend != "")
    assert status.backend in ("litert", "tflite", "onnxruntime")
    assert status.arithmetic_drift_lsb is not None
    assert status.arithmetic_drift_lsb <= 2


def test_an_agent_survives_messages_that_are_none(coordinator, settings, package, model, plan):
    with running(settings) as log:
        coordinator.status(lambda s: s.state == "online")
        coordinator.publish(TOPICS.plan, b"\xff" * 30)
        detail = coordinator.status(lambda s: s.detail != "").detail
        assert detail.startswith("cannot read the plan")
        coordinator.publish(TOPICS.plan, replace(plan, federation="elsewhere").encode())
        coordinator.publish(TOPICS.model(model.model_hash), b"no body")
        coordinator.publish(TOPICS.network(model.backbone_hash), b"no network")
        coordinator.publish(TOPICS.plan, plan.encode())
        give_up = time.monotonic() + WAIT_S
        while not any("model package" in line for line in log) and time.monotonic() < give_up:
            time.sleep(0.02)
        coordinator.publish(TOPICS.network(model.backbone_hash), package.to_bytes())
        while not any("model body" in line for line in log) and time.monotonic() < give_up:
            time.sleep(0.02)
        coordinator.announce(package, plan, model)
        assert UpdateMessage.decode(coordinator.update()).round == 1
    reasons = [line.split("(")[1].split(",")[0] for line in log if line.startswith("refused")]
    assert sorted(reasons) == ["malformed", "malformed", "malformed", "wrong_federation"]


def test_a_restarted_agent_fetches_nothing_it_has(coordinator, settings, package, model, plan):
    with running(settings):
        coordinator.announce(package, plan, model)
        first = coordinator.update()
    # Were they fetched again, there would be nothing to find.
    coordinator.publish(TOPICS.network(model.backbone_hash), b"")
    coordinator.publish(TOPICS.model(model.model_hash), b"")
    with running(settings):
        coordinator.publish(TOPICS.plan, replace(plan, round=2).encode())
        second = coordinator.update()
        if second == first:  # it was stopped before the broker's acknowledgement came: sent again, verbatim
            second = coordinator.update()
    assert [UpdateMessage.decode(each).round for each in (first, second)] == [1, 2]


def test_an_agent_that_may_leaves_by_itself(coordinator, settings, package, model, plan, make):
    end = replace(plan, round=3, phase="finished", cohort=(), evaluate=(make.reference_to(model),))
    coordinator.announce(package, end, model)
    log: list[str] = []
    leaving = replace(settings, exit_when_finished=True)
    assert run(leaving, threading.Event(), log.append) == 0
    assert EvaluationMessage.decode(coordinator.wait(TOPICS.evaluation("dev-1"))).results
    coordinator.status(lambda s: s.state == "offline")


# ------------------------------------------------------------------------- processes


def start_agent(settings: AgentSettings, *, patch: str = "") -> subprocess.Popen[str]:
    """The agent in a process of its own; `patch` runs in it before the agent does."""
    script = """
        import os, pathlib, signal, sys
        from sanderling.edge_runtime import agent, service, trainer, workbench
        from sanderling.edge_runtime.service import AgentSettings
        from sanderling.edge_runtime.sources import SourceSettings
        from pathlib import PosixPath
        trainings = pathlib.Path(sys.argv[1])
        train = trainer.train
        def counted(*arguments):
            with trainings.open("a") as file:
                file.write("trained\\n")
            return train(*arguments)
        trainer.train = counted
        inf = float("inf")
    """
    code = textwrap.dedent(script) + textwrap.dedent(patch)
    code += f"\nsys.exit(service.run({settings!r}, None, print))\n"
    command = [sys.executable, "-u", "-c", code, str(trainings(settings))]
    with settings.state_dir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)


def trainings(settings: AgentSettings) -> Path:
    return settings.state_dir.with_suffix(".trainings")


def test_killed_between_storing_and_publishing_it_sends_the_same_bytes_and_trains_once(
    coordinator, settings, package, model, plan
):
    coordinator.announce(package, plan, model)
    kill_on_publish = """
        service._Service._publish_report = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = start_agent(settings, patch=kill_on_publish)
    assert killed.wait(WAIT_S) == -signal.SIGKILL
    with Storage(settings.state_dir) as storage:
        memory = Memory.from_bytes(storage.read("memory") or b"")
    assert memory.report is not None
    assert not memory.report.delivered
    restarted = start_agent(settings)
    try:
        assert coordinator.update() == memory.report.payload
        assert trainings(settings).read_text() == "trained\n"
    finally:
        restarted.terminate()
        assert restarted.wait(WAIT_S) == 0


def test_a_kill_sends_the_will_and_sigterm_says_goodbye(coordinator, settings):
    agent = start_agent(settings)
    coordinator.status(lambda s: s.state == "online")
    agent.kill()
    agent.wait(WAIT_S)
    coordinator.status(lambda s: s.state == "offline")
    agent = start_agent(settings)
    coordinator.status(lambda s: s.state == "online")
    agent.terminate()
    assert agent.wait(WAIT_S) == 0
    coordinator.status(lambda s: s.state == "offline")


def test_a_device_loads_nothing_it_does_not_need(tmp_path):
    """No data frames, no plots, no trackers, no other runtime: what an idle agent imports is what it runs."""
    script = "import sys; import sanderling.edge_runtime.service; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    heavy = {"pandas", "sklearn", "mlflow", "torch", "matplotlib", "onnx", "onnxruntime", "scipy", "pyarrow"}
    assert not loaded & (heavy | {"ai_edge_litert", "tflite", "flatbuffers", "amqtt", "sqlalchemy"})


def test_a_broker_that_restarts_empty_gets_the_plan_s_answer_again(
    tmp_path, settings, package, model, plan, broker
):
    """What the broker had taken, it lost, and its session: the stored bytes go out once more, without training."""
    coordinator = Coordinator(broker.port)
    agent = start_agent(settings)
    try:
        coordinator.announce(package, plan, model)
        first = coordinator.update()
        coordinator.close()
        broker.stop()
        shutil.rmtree(tmp_path / "broker", ignore_errors=True)
        with start_broker(broker.kind, port=broker.port, data_dir=tmp_path / "empty"):
            coordinator = Coordinator(broker.port)
            coordinator.announce(package, plan, model)
            assert coordinator.update() == first
            coordinator.close()
        assert trainings(settings).read_text() == "trained\n"
    finally:
        agent.terminate()
        assert agent.wait(WAIT_S) == 0
