"""The C node in a federation on a real broker: what it answers, what it refuses, and what it survives."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sanderling.broker import announcements, chunks, keys, sealing
from sanderling.broker.counters import ReplayWindow
from sanderling.broker.messages import EvaluationMessage, RoundPlan, UpdateMessage
from sanderling.broker.mosquitto import Mosquitto, find_mosquitto
from sanderling.broker.run import start_broker
from sanderling.edge_runtime import gateway, trainer
from sanderling.edge_runtime.gateway import GatewaySettings
from sanderling.edge_runtime.trainer import Examples, LocalData
from sanderling.models import inference
from sanderling.models.native import Native
from sanderling.models.updates import GlobalModel
from tests.edge_runtime import conftest as small
from tests.firmware_export.flashed import Flashed
from tests.firmware_export.host_node import HostNode
from tests.scripted_coordinator import TOPICS, Coordinator

pytestmark = pytest.mark.network

NETWORK = small.small_network()
PACKAGE = small.package_of(NETWORK)
MODEL = small.first_model(NETWORK)
PLAN = small.plan_for(MODEL)
EXAMPLES = small.windows(60, 5)


@pytest.fixture(scope="module")
def flashed(runtime: Native) -> Flashed:
    return Flashed(runtime, PACKAGE)


@pytest.fixture
def broker(tmp_path) -> Iterator[Mosquitto]:
    if find_mosquitto() is None:
        assert "CI" not in os.environ, "mosquitto must be installed in continuous integration"
        pytest.skip("mosquitto is not installed")
    with start_broker("mosquitto", data_dir=tmp_path / "broker") as started:
        yield started


@pytest.fixture
def coordinator(broker: Mosquitto) -> Iterator[Coordinator]:
    one = Coordinator(broker.port)
    yield one
    one.close()


@pytest.fixture
def start(runtime: Native, flashed: Flashed, broker: Mosquitto):
    """Makes nodes; `start(node)` makes the one that comes after a loss of power."""
    made: list[HostNode] = []

    def make(before: HostNode | None = None, **options) -> HostNode:
        contents = None
        if before is not None:
            before.close()
            contents = before.board.contents
        made.append(HostNode(runtime, flashed, broker.port, EXAMPLES, contents=contents, **options))
        return made[-1]

    yield make
    for node in made:
        node.close()


def announce(coordinator: Coordinator, plan: RoundPlan, *models: GlobalModel) -> None:
    """Models in chunks, then the plan."""
    for model in models:
        for topic, payload in chunks.retained(TOPICS, model, 256).items():
            coordinator.publish(topic, payload)
    coordinator.publish(TOPICS.plan, plan.encode())


def local_data() -> LocalData:
    """What the node has, as the Linux agent would hold it."""
    examples, labels = EXAMPLES
    features = inference.features(NETWORK, PACKAGE.preprocessing.quantize_input(examples), 2)
    parts = np.resize([0, 0, 1, 0, 0, 2, 0, 1, 0, 2], len(labels))
    train, validation, test = (
        Examples(features=features[parts == part], labels=labels[parts == part]) for part in range(3)
    )
    return LocalData(train=train, validation=validation, test=test)


def expected(plan: RoundPlan, model: GlobalModel, residual=None):
    head = small.dense_head(NETWORK)
    return trainer.train(plan, "dev-1", head, model.theta, local_data(), residual, lambda: 0.0)


def same_but_for_time(found: bytes, wanted: UpdateMessage) -> bool:
    """Losses are logarithms, which two C libraries may round differently in the last thousandth."""
    update = UpdateMessage.decode(found)
    near = all(
        abs(getattr(update, name) - getattr(wanted, name)) <= 1
        for name in ("training_loss_milli", "validation_loss_milli")
    )
    free = {"duration_ms": 0, "training_loss_milli": 0, "validation_loss_milli": 0}
    return near and replace(update, **free) == replace(wanted, **free)


def test_a_node_takes_part_from_the_first_round_to_the_evaluation(coordinator, start) -> None:
    node = start()
    announce(coordinator, PLAN, MODEL)
    node.poll_until(lambda: node.answered == 1)
    assert same_but_for_time(coordinator.update(), expected(PLAN, MODEL)[0])
    second = small.next_model(MODEL)
    plan = replace(PLAN, round=2, model=small.reference_to(second))
    announce(coordinator, plan, second)
    node.poll_until(lambda: node.answered == 2)
    assert same_but_for_time(coordinator.update(), expected(plan, second)[0])
    references = (small.reference_to(MODEL), small.reference_to(second))
    announce(coordinator, replace(plan, phase="finished", evaluate=references), MODEL, second)
    node.poll_until(lambda: node.agent.finished)
    results = EvaluationMessage.decode(coordinator.wait(TOPICS.evaluation("dev-1"))).results
    assert [result.model_hash for result in results] == [MODEL.model_hash, second.model_hash]
    assert {result.examples for result in results} == {len(local_data().test.labels)}
    status = coordinator.status(lambda told: told.num_examples > 0)
    assert (status.backend, status.receive_buffer_bytes) == ("native", 256)
    assert status.num_examples == len(local_data().train.labels)


def test_top_k_updates_feed_their_error_back_over_a_restart(coordinator, start) -> None:
    node, residual = start(top_k=True), None
    for number in (1, 2, 3):
        update = replace(PLAN.update, mode="topk", coordinates=10, clipping_norm=2000)
        plan = replace(PLAN, round=number, update=update)
        announce(coordinator, plan, MODEL)
        node.poll_until(lambda node=node, number=number: node.answered == number)
        message, residual = expected(plan, MODEL, residual)
        found = coordinator.update()
        assert same_but_for_time(found, message)
        node = start(node, top_k=True)


def test_a_loss_of_power_between_any_two_writes_costs_no_report_and_counts_none_twice(
    coordinator, start
) -> None:
    announce(coordinator, PLAN, MODEL)
    whole = start()
    whole.poll_until(lambda: whole.answered == 1)
    whole.close()
    first = coordinator.update()
    assert whole.board.changes > 20
    for changes in range(whole.board.changes):
        cut = start(changes_left=changes)
        cut.poll_until(lambda cut=cut, changes=changes: cut.board.changes > changes)
        again = start(cut)
        again.poll_until(lambda again=again: again.answered == 1)
        again.close()
        # It may have been sent before power was lost: then the same bytes came again.
        sent = [coordinator.update()]
        coordinator.publish(TOPICS.update("dev-1"), b"sentinel")
        while (message := coordinator.update()) != b"sentinel":
            sent.append(message)
        assert len({replace(UpdateMessage.decode(each), duration_ms=0) for each in [first, *sent]}) == 1
        assert len(set(sent)) == 1


def test_a_broker_that_goes_and_comes_back_gets_the_report(
    tmp_path, runtime: Native, flashed: Flashed
) -> None:
    with start_broker("mosquitto", data_dir=tmp_path / "broker") as first:
        port = first.port
        node = HostNode(runtime, flashed, port, EXAMPLES)
        coordinator = Coordinator(port)
        announce(coordinator, PLAN, MODEL)
        node.poll_until(lambda: node.answered == 1)
        coordinator.update()
    with pytest.raises(AssertionError, match="does not get there"):
        node.poll_until(lambda: False, wait_s=0.7)
    assert node.log[-1] in ("not connected", "link_lost")
    with start_broker("mosquitto", data_dir=tmp_path / "broker", port=port):
        announce(coordinator, replace(PLAN, round=2), MODEL)
        node.poll_until(lambda: node.answered == 2)
        while (number := UpdateMessage.decode(coordinator.update()).round) != 2:
            assert number == 1  # the first one again: its acknowledgement was lost with the broker
        coordinator.close()
    node.close()


def test_a_guarded_node_acts_on_signed_plans_alone_and_seals_its_report(coordinator, start) -> None:
    signer, ours, theirs = (
        Ed25519PrivateKey.generate(),
        X25519PrivateKey.generate(),
        X25519PrivateKey.generate(),
    )
    pair_key = keys.device_pair_key(theirs, ours.public_key())
    node = start(keys=(pair_key, signer.public_key().public_bytes_raw()))
    for chunk in chunks.retained(TOPICS, MODEL, 256).items():
        coordinator.publish(*chunk)
    other = Ed25519PrivateKey.generate()
    for sequence, (key, reason) in enumerate([(None, "unprotected"), (other, "not_authentic")], start=1):
        plan = PLAN.encode()
        if key is not None:
            plan = announcements.sign(
                plan, key, federation="bench", kind=announcements.Kind.PLAN, sequence=sequence
            )
        coordinator.publish(TOPICS.plan, plan)
        node.poll_until(lambda sequence=sequence: node.agent.refused >= sequence)
        assert node.log[-1] == reason
    assert not node.agent.planned
    kind = announcements.Kind.PLAN
    signed = announcements.sign(PLAN.encode(), signer, federation="bench", kind=kind, sequence=1)
    coordinator.publish(TOPICS.plan, signed)
    node.poll_until(lambda: node.answered == 1)
    sealed = coordinator.update()
    subject = sealing.Subject(kind=sealing.Kind.UPDATE, round=1, model_hash=MODEL.model_hash)
    epoch = keys.epoch_key(
        pair_key, federation="bench", device="dev-1", run=PLAN.run, epoch=PLAN.update.mask_epoch
    )
    message, _ = sealing.unseal(sealed, epoch, subject, ReplayWindow())
    assert same_but_for_time(message, expected(PLAN, MODEL)[0])
    assert len(sealed) - len(message) <= 48


@pytest.mark.parametrize("seed", [1, 2])
def test_a_line_that_loses_and_flips_bytes_costs_nothing_but_time(
    coordinator, broker, start, seed: int
) -> None:
    node, stop = start(noise=random.Random(seed)), threading.Event()
    settings = GatewaySettings(lines=(node.line,), baud=115200, host="127.0.0.1", port=broker.port)
    thread = threading.Thread(target=gateway.run, args=(settings, stop, lambda line: None))
    thread.start()
    try:
        for number in range(1, 7):
            plan = replace(PLAN, round=number)
            announce(coordinator, plan, MODEL)
            node.poll_until(lambda number=number: node.answered == number)
            assert same_but_for_time(coordinator.update(), expected(plan, MODEL)[0])
        assert node.agent.frame.damaged > 0
        assert node.agent.frame.repeated > 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": replace(PLAN.model, network_hash=bytes(32))}, "wrong_network"),
        ({"training": replace(PLAN.training, batch_size=33)}, "unsupported"),
        ({"update": replace(PLAN.update, coordinates=0)}, "unsupported"),
        ({"update": replace(PLAN.update, coordinates=1000)}, "unsupported"),
        ({"update": replace(PLAN.update, mode="topk")}, "unsupported"),
        ({"model": replace(PLAN.model, body_bytes=10)}, "wrong_dimension"),
    ],
)
def test_a_plan_it_cannot_answer_makes_it_abstain_and_say_why(coordinator, start, changes, reason) -> None:
    node = start()
    announce(coordinator, replace(PLAN, **changes), MODEL)
    node.poll_until(lambda: node.agent.abstained.round == 1)
    node.poll_until(lambda: not (node.agent.announce or node.agent.announcing))
    assert coordinator.status(lambda told: told.detail != "").detail == reason
    announce(coordinator, replace(PLAN, round=2), MODEL)  # and it is there for the next one
    node.poll_until(lambda: node.answered == 2)
    node.poll_until(lambda: not (node.agent.announce or node.agent.announcing))
    coordinator.status(lambda told: told.detail == "")


@pytest.mark.parametrize(
    "payload",
    [b"\xff" * 30, PLAN.encode()[:-1], replace(PLAN, federation="elsewhere").encode(), bytes(300_000)],
)
def test_a_forged_or_foreign_plan_is_refused_and_changes_nothing(coordinator, start, payload: bytes) -> None:
    node = start()
    announce(coordinator, PLAN, MODEL)
    node.poll_until(lambda: node.answered == 1)
    changes = node.board.changes
    coordinator.publish(TOPICS.plan, payload)
    node.poll_until(lambda: node.agent.refused > 0)
    assert (node.agent.plan.round, node.board.changes) == (1, changes)
    announce(coordinator, replace(PLAN, round=2), MODEL)
    node.poll_until(lambda: node.answered == 2)


def test_a_stale_plan_is_refused_over_a_restart_as_well(coordinator, start) -> None:
    node = start()
    announce(coordinator, replace(PLAN, round=5), MODEL)
    node.poll_until(lambda: node.answered == 5)
    node = start(node)
    coordinator.publish(TOPICS.plan, replace(PLAN, round=4).encode())
    node.poll_until(lambda: node.agent.refused > 0)
    assert node.log[-1] == "older_round"
    announce(coordinator, replace(PLAN, round=6), MODEL)
    node.poll_until(lambda: node.answered == 6)


def test_chunks_of_another_model_are_refused_and_fetched_again(coordinator, start) -> None:
    other, node = small.next_model(MODEL), start()
    for index, chunk in enumerate(chunks.cut(other, 256)):
        # Well formed and with its check right, but not what the plan's hash promises.
        piece = replace(chunk, check=chunks.check(MODEL.model_hash, index, chunk.count, chunk.piece))
        coordinator.publish(TOPICS.chunk(MODEL.model_hash, 256, index), piece.encode())
    coordinator.publish(TOPICS.plan, PLAN.encode())
    node.poll_until(lambda: "wrong_model" in node.log)
    for topic, payload in chunks.retained(TOPICS, MODEL, 256).items():
        coordinator.publish(topic, payload)
    node.poll_until(lambda: node.answered == 1)
    assert same_but_for_time(coordinator.update(), expected(PLAN, MODEL)[0])


def test_a_model_older_than_the_last_good_one_of_the_run_is_not_taken(coordinator, start) -> None:
    newer, node = small.next_model(MODEL), start()
    announce(coordinator, replace(PLAN, model=small.reference_to(newer)), newer)
    node.poll_until(lambda: node.answered == 1)
    node = start(node)
    announce(coordinator, replace(PLAN, round=2), MODEL)
    node.poll_until(lambda: node.agent.abstained.round == 2)
    assert node.log[-1] == "wrong_model"


def test_a_node_whose_arithmetic_differs_does_not_join_and_says_so(
    coordinator, runtime: Native, broker
) -> None:
    flashed = Flashed(runtime, PACKAGE)
    flashed.model.golden = runtime.ffi.from_buffer("uint8_t[]", bytes(32))
    node = HostNode(runtime, flashed, broker.port, EXAMPLES)
    announce(coordinator, PLAN, MODEL)
    node.poll_until(lambda: "connected" in node.log)
    node.poll_until(lambda: not (node.agent.announce or node.agent.announcing))
    status = coordinator.status(lambda told: told.detail != "")
    assert (status.state, status.detail) == ("offline", "arithmetic_differs")
    assert not node.agent.planned
    node.close()


@pytest.mark.parametrize(
    ("name", "value", "status"), [("device", b"a b", -3), ("device", b"", -1), ("chunk_bytes", 100, -17)]
)
def test_a_configuration_that_cannot_be_is_refused(runtime: Native, start, name, value, status) -> None:
    node = start()
    node.config.intake.train.held = 0  # as at the start
    setattr(node.config, name, runtime.ffi.new("char[]", value) if isinstance(value, bytes) else value)
    expected_status = -1 if isinstance(value, bytes) else status
    assert runtime.lib.sl_agent_start(node.agent, node.config) == expected_status
