"""The agent's rules, each by hand-made events; no link, no disk, no clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanderling.broker.messages import ModelBody, RoundPlan
from sanderling.edge_runtime import agent
from sanderling.edge_runtime.agent import (
    AgentState,
    Connected,
    Delivered,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    KeepModel,
    KeepNetwork,
    Leave,
    Prepared,
    PublishReport,
    PublishStatus,
    Received,
    Started,
    Store,
    Stored,
    Subscribe,
    Train,
    Trained,
    Undelivered,
    Unsubscribe,
)
from sanderling.edge_runtime.memory import Memory, Question, Report
from sanderling.edge_runtime.trainer import Residual

NOW = 1_700_000_000.0
ROUND_1 = Question(run="run-a", round=1, phase="round")


class Bench:
    """An agent, and what the events so far made it do."""

    def __init__(self, **changes: object) -> None:
        state = AgentState(
            federation="bench", device_id="dev-1", num_examples=36, software="test", boot=bytes(8)
        )
        self.state = replace(state, **changes)
        self.done: list[agent.Effect] = []

    def take(self, *events: Event) -> list[agent.Effect]:
        """The effects of these events."""
        new: list[agent.Effect] = []
        for event in events:
            self.state, effects = agent.step(self.state, event, NOW)
            new += effects
        self.done += new
        return new

    def plan(self, plan: RoundPlan) -> list[agent.Effect]:
        return self.take(Received(topic=self.state.topics.plan, payload=plan.encode()))

    def network(self, package) -> list[agent.Effect]:
        topic = self.state.topics.network(package.network.content_hash)
        return self.take(Received(topic=topic, payload=package.to_bytes()))

    def body(self, model, topic_of=None) -> list[agent.Effect]:
        topic = self.state.topics.model((topic_of or model).model_hash)
        return self.take(Received(topic=topic, payload=ModelBody.of(model).encode()))

    def answer(self, plan: RoundPlan, payload: bytes = b"update", residual=None) -> list[agent.Effect]:
        """As the shell would for a Train effect: trained, stored."""
        question = Question(run=plan.run, round=plan.round, phase=plan.phase)
        return self.take(
            Trained(question=question, payload=payload, residual=residual), Stored(question=question)
        )

    def refused(self) -> dict[str, int]:
        return dict(self.state.refused)


def kinds(effects: list[agent.Effect]) -> list[type]:
    return [type(effect) for effect in effects if not isinstance(effect, agent.Log)]


def only(kind: type, effects: list[agent.Effect]):
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


@pytest.fixture
def equipped(package, model) -> Bench:
    """A bench that has the network and the first model."""
    return Bench(networks={package.network.content_hash: package}, models={model.model_hash: model})


# ------------------------------------------------------------------------- fetching


def test_a_start_subscribes_to_the_plan_and_a_connection_announces_the_device():
    bench = Bench()
    assert bench.take(Started()) == [Subscribe(topic="sanderling/1/bench/plan")]
    status = only(PublishStatus, bench.take(Connected(session_present=True)))
    assert status.topic == "sanderling/1/bench/device/dev-1/status"
    assert (status.status.state, status.status.num_examples) == ("online", 36)


def test_a_plan_fetches_the_network_then_the_model_then_trains(package, model, plan):
    bench, topics = Bench(), Bench().state.topics
    network_topic, model_topic = topics.network(model.backbone_hash), topics.model(model.model_hash)
    assert bench.plan(plan) == [Subscribe(topic=network_topic)]
    assert bench.network(package) == [
        KeepNetwork(network_hash=model.backbone_hash, payload=package.to_bytes()),
        Unsubscribe(topic=network_topic),
        Subscribe(topic=model_topic),
    ]
    effects = bench.body(model)
    assert kinds(effects) == [KeepModel, Unsubscribe, Train]
    assert effects[1] == Unsubscribe(topic=model_topic)
    assert effects[2].plan == plan
    assert np.array_equal(effects[2].model.theta, model.theta)
    assert not bench.state.refused


def test_what_is_at_hand_is_not_fetched_again(equipped, plan):
    assert kinds(equipped.plan(plan)) == [Train]


def test_a_new_model_on_the_network_at_hand_fetches_the_body_alone(equipped, model, plan, make):
    second = make.next_model(model)
    effects = equipped.plan(replace(plan, round=2, model=make.reference_to(second)))
    assert effects == [Subscribe(topic=equipped.state.topics.model(second.model_hash))]


def test_the_same_parameters_under_a_later_version_are_at_hand(equipped, model, plan, make):
    again = replace(model, version=9)
    assert kinds(equipped.plan(replace(plan, round=2, model=make.reference_to(again)))) == [Train]


def test_a_plan_without_this_device_asks_for_nothing(plan):
    bench = Bench()
    assert bench.plan(replace(plan, cohort=("dev-2", "dev-3"))) == []
    assert bench.plan(replace(plan, phase="waiting", cohort=())) == []


def test_a_newer_plan_stops_the_fetch_of_a_model_that_nobody_needs(package, model, plan, make):
    bench = Bench(networks={model.backbone_hash: package})
    second = make.next_model(model)
    bench.plan(plan)
    effects = bench.plan(replace(plan, round=2, model=make.reference_to(second)))
    topics = bench.state.topics
    assert effects == [
        Unsubscribe(topic=topics.model(model.model_hash)),
        Subscribe(topic=topics.model(second.model_hash)),
    ]


def test_networks_and_models_kept_are_bounded(package, model, plan, make):
    bench = Bench(networks={model.backbone_hash: package})
    for number in range(1, 13):
        model = make.next_model(model)
        bench.plan(replace(plan, round=number, model=make.reference_to(model)))
        bench.body(model)
        bench.answer(bench.state.plan)
    assert len(bench.state.models) == agent.MODELS_KEPT
    assert model.model_hash in bench.state.models


# ------------------------------------------------------------------------- answering


def test_an_update_is_stored_before_it_is_published(equipped, plan):
    equipped.plan(plan)
    stored = equipped.take(Trained(question=ROUND_1, payload=b"update", residual=None))
    assert kinds(stored) == [Store]
    assert stored[0].memory.report.payload == b"update"
    published = equipped.take(Stored(question=ROUND_1))
    assert published == [
        PublishReport(topic="sanderling/1/bench/device/dev-1/update", payload=b"update", question=ROUND_1)
    ]


def test_a_round_is_answered_once(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan)
    assert equipped.plan(plan) == []  # on its way
    assert kinds(equipped.take(Delivered(question=ROUND_1))) == [Store]
    assert equipped.plan(plan) == []


def test_after_a_restart_the_stored_bytes_are_sent_again_and_nothing_is_trained(package, model, plan):
    memory = Memory(report=Report(question=ROUND_1, payload=b"as before"))
    bench = Bench(
        memory=Memory.from_bytes(memory.to_bytes()),
        networks={package.network.content_hash: package},
        models={model.model_hash: model},
    )
    effects = bench.plan(plan)
    assert kinds(effects) == [PublishReport]
    assert effects[0].payload == b"as before"


def test_after_a_restart_a_delivered_report_is_not_sent_again(plan):
    bench = Bench(memory=Memory(report=Report(question=ROUND_1, payload=b"x", delivered=True)))
    assert bench.plan(plan) == []


def test_a_broker_that_lost_the_session_gets_a_delivered_report_again(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan)
    equipped.take(Delivered(question=ROUND_1), Connected(session_present=True))
    assert equipped.plan(plan) == []
    equipped.take(Connected(session_present=False))
    assert only(PublishReport, equipped.plan(plan)).payload == b"update"


def test_an_update_that_was_not_taken_is_sent_again_with_the_plan(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan)
    assert kinds(equipped.take(Undelivered(question=ROUND_1, reason="quota exceeded"))) == []
    assert only(PublishReport, equipped.plan(plan)).payload == b"update"


def test_an_undelivered_update_for_an_older_plan_is_dropped(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan)
    assert kinds(equipped.plan(replace(plan, round=2))) == [Train]
    assert equipped.state.memory.report is None


def test_a_newer_plan_during_training_supersedes_it(equipped, plan):
    equipped.plan(plan)
    second = replace(plan, round=2)
    assert equipped.plan(second) == []  # one job at a time
    effects = equipped.take(Trained(question=ROUND_1, payload=b"late", residual=None))
    assert kinds(effects) == [Train]
    assert effects[-1].plan == second
    assert equipped.state.memory.report is None
    published = only(PublishReport, equipped.answer(second, b"in time"))
    assert (published.payload, published.question.round) == (b"in time", 2)


def test_a_plan_of_another_run_takes_over(equipped, plan):
    equipped.plan(replace(plan, round=9))
    equipped.answer(replace(plan, round=9))
    equipped.take(Delivered(question=Question(run="run-a", round=9, phase="round")))
    assert only(Train, equipped.plan(replace(plan, run="run-b"))).plan.run == "run-b"


def test_a_report_that_cannot_be_stored_is_not_published(equipped, plan):
    equipped.plan(plan)
    equipped.take(Trained(question=ROUND_1, payload=b"update", residual=None))
    effects = equipped.take(Failed(question=ROUND_1, detail="cannot store a report: disk full"))
    assert kinds(effects) == [PublishStatus]
    assert only(PublishStatus, effects).status.detail == "cannot store a report: disk full"
    assert equipped.state.memory.report is None
    assert kinds(equipped.plan(plan)) == [Train]  # asked again, it tries again


# ------------------------------------------------------------------------- residual


def residual(value: int) -> Residual:
    return Residual(mask_epoch=0, vector=np.array([value], np.int32))


def test_a_residual_is_committed_only_once_its_update_is_delivered(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan, residual=residual(5))
    assert equipped.state.memory.residual is None
    equipped.plan(replace(plan, round=2))  # the first never left
    equipped.answer(replace(plan, round=2), residual=residual(6))
    equipped.take(Delivered(question=Question(run="run-a", round=2, phase="round")))
    assert only(Train, equipped.plan(replace(plan, round=3))).residual.vector.tolist() == [6]


def test_report_and_residual_outlive_a_restart_together(equipped, plan):
    equipped.plan(plan)
    equipped.answer(plan, residual=residual(5))
    stored = only(Store, equipped.take(Delivered(question=ROUND_1))).memory
    memory = Memory.from_bytes(stored.to_bytes())
    assert memory.residual.vector.tolist() == [5]
    assert memory.report.delivered
    assert memory.report.payload == b"update"


# ------------------------------------------------------------------------- evaluating


def finished(plan: RoundPlan, *models, make) -> RoundPlan:
    references = tuple(make.reference_to(model) for model in models)
    return replace(plan, round=4, phase="finished", cohort=(), evaluate=references)


def test_the_end_evaluates_the_named_models_and_tells_once(equipped, model, plan, make):
    last = make.next_model(model)
    end = finished(plan, model, last, make=make)
    assert equipped.plan(end) == [Subscribe(topic=equipped.state.topics.model(last.model_hash))]
    work = only(Evaluate, equipped.body(last))
    assert [each.model_hash for each in work.models] == [model.model_hash, last.model_hash]
    question = Question(run="run-a", round=4, phase="finished")
    effects = equipped.take(Evaluated(question=question, payload=b"figures"), Stored(question=question))
    published = only(PublishReport, effects)
    assert (published.topic, published.payload) == (
        "sanderling/1/bench/device/dev-1/evaluation",
        b"figures",
    )
    equipped.take(Delivered(question=question))
    assert equipped.plan(end) == []


def test_an_agent_that_may_leaves_once_its_evaluation_is_delivered(equipped, model, plan, make):
    equipped.state = replace(equipped.state, exit_when_finished=True)
    question = Question(run="run-a", round=4, phase="finished")
    equipped.plan(finished(plan, model, make=make))
    equipped.take(Evaluated(question=question, payload=b"figures"), Stored(question=question))
    assert Leave() not in equipped.done
    assert kinds(equipped.take(Delivered(question=question))) == [Store, Leave]


def test_an_agent_that_may_leaves_when_it_cannot_evaluate_or_need_not(equipped, model, plan, make):
    equipped.state = replace(equipped.state, exit_when_finished=True)
    equipped.plan(finished(plan, model, make=make))
    question = Question(run="run-a", round=4, phase="finished")
    assert Leave() in equipped.take(Failed(question=question, detail="no data"))
    bench = Bench(exit_when_finished=True)
    assert bench.plan(finished(plan, make=make)) == [Leave()]


# ------------------------------------------------------------------------- refusing


def test_a_plan_of_another_federation_is_refused(equipped, plan):
    assert kinds(equipped.plan(replace(plan, federation="elsewhere"))) == []
    assert equipped.refused() == {"wrong_federation": 1}


def test_an_older_round_of_the_same_run_is_refused(equipped, plan):
    equipped.plan(replace(plan, round=3))
    assert kinds(equipped.plan(replace(plan, round=2))) == []
    assert equipped.refused() == {"older_round": 1}
    assert equipped.state.plan.round == 3


def test_an_older_round_is_refused_after_a_restart_too(plan):
    answered = Question(run="run-a", round=5, phase="round")
    bench = Bench(memory=Memory(report=Report(question=answered, payload=b"x", delivered=True)))
    assert kinds(bench.plan(plan)) == []
    assert bench.refused() == {"older_round": 1}


@pytest.mark.parametrize("payload", [b"\xff", b"not cbor", bytes(2000)])
def test_a_plan_that_does_not_decode_is_refused_and_the_status_says_so(equipped, payload):
    effects = equipped.take(Received(topic=equipped.state.topics.plan, payload=payload))
    assert sum(equipped.refused().values()) == 1
    assert only(PublishStatus, effects).status.detail.startswith("cannot read the plan")


def test_a_body_of_another_hash_is_refused_and_the_right_one_still_taken(package, model, plan, make):
    bench = Bench(networks={model.backbone_hash: package})
    bench.plan(plan)
    assert kinds(bench.body(make.next_model(model), topic_of=model)) == []
    assert bench.refused() == {"wrong_model": 1}
    assert Train in kinds(bench.body(model))


def test_a_body_of_another_network_is_refused(package, model, plan, make):
    """Also where its hash is the one announced."""
    stray = replace(model, backbone_hash=bytes(32))
    reference = replace(make.reference_to(stray), network_hash=model.backbone_hash)
    bench = Bench(networks={model.backbone_hash: package})
    bench.plan(replace(plan, model=reference))
    assert kinds(bench.body(stray)) == []
    assert bench.refused() == {"wrong_model": 1}


def test_a_head_of_another_dimension_is_refused(package, model, plan, make):
    longer = replace(model, theta=np.append(model.theta, np.int32(1)))
    bench = Bench(networks={model.backbone_hash: package})
    bench.plan(replace(plan, model=make.reference_to(longer)))
    assert kinds(bench.body(longer)) == []
    assert bench.refused() == {"wrong_dimension": 1}


def test_a_network_of_another_hash_is_refused(plan, model, make):
    bench = Bench()
    bench.plan(plan)
    other = make.package_of(make.small_network(seed=2))
    topic = bench.state.topics.network(model.backbone_hash)
    assert kinds(bench.take(Received(topic=topic, payload=other.to_bytes()))) == []
    assert bench.refused() == {"wrong_model": 1}


@pytest.mark.parametrize("damage", [b"\x83", b"\xa0", bytes(100)])
def test_a_network_or_a_body_that_does_not_decode_is_refused(package, model, plan, damage):
    bench = Bench()
    bench.plan(plan)
    bench.take(Received(topic=bench.state.topics.network(model.backbone_hash), payload=damage))
    bench.network(package)
    bench.take(Received(topic=bench.state.topics.model(model.model_hash), payload=damage))
    assert sum(bench.refused().values()) == 2
    assert Train in kinds(bench.body(model))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_message_ends_the_agent(package, model, plan, data):
    """Whole messages cut, lengthened, or with bytes changed, on each topic that the agent listens to."""
    bench, topics = Bench(), Bench().state.topics
    genuine = {
        topics.plan: plan.encode(),
        topics.network(model.backbone_hash): package.to_bytes(),
        topics.model(model.model_hash): ModelBody.of(model).encode(),
    }
    for topic, payload in genuine.items():
        damaged = bytearray(payload[: data.draw(st.integers(0, len(payload)))])
        for _ in range(data.draw(st.integers(0, 3))):
            if damaged:
                damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        damaged += data.draw(st.binary(max_size=3))
        bench.take(Received(topic=topic, payload=bytes(damaged)))
        bench.take(Received(topic=topic, payload=payload))
    assert sum(bench.refused().values()) <= 3
    assert bench.state.plan is not None


def test_what_was_never_asked_for_is_refused_and_what_was_is_ignored(equipped, model, plan, make):
    equipped.plan(plan)
    assert equipped.body(model) == []  # was on its way when the agent unsubscribed
    assert equipped.body(make.next_model(model)) == []
    assert equipped.refused() == {}
    equipped.take(Received(topic="sanderling/1/bench/elsewhere", payload=b"x"))
    assert equipped.refused() == {"unexpected_topic": 1}


def test_a_retained_message_that_was_cleared_is_no_message(package, model, plan):
    bench = Bench(networks={model.backbone_hash: package})
    bench.plan(plan)
    topics = bench.state.topics
    assert (
        bench.take(*(Received(topic=t, payload=b"") for t in (topics.plan, topics.model(model.model_hash))))
        == []
    )
    assert bench.refused() == {}


# ------------------------------------------------------------------------- abstaining


def abstains(bench: Bench, plan: RoundPlan) -> str:
    """Why; it trains nothing and fetches nothing."""
    effects = bench.plan(plan)
    assert kinds(effects) == [PublishStatus]
    return only(PublishStatus, effects).status.detail


def test_a_device_without_training_examples_abstains(plan):
    assert abstains(Bench(num_examples=0), plan) == "no training example"


def test_a_device_that_abstained_takes_part_again_when_it_can(equipped, plan):
    equipped.plan(plan)
    equipped.take(Failed(question=ROUND_1, detail="label 7, network 'small' has 4 classes"))
    assert kinds(equipped.plan(replace(plan, round=2))) == [Train]
    effects = equipped.answer(replace(plan, round=2))
    assert only(PublishStatus, effects).status.detail == ""


def test_a_plan_this_device_cannot_train_by_is_abstained_from(equipped, plan):
    training = replace(plan.training, batch_size=33)
    assert abstains(equipped, replace(plan, training=training)) == (
        "batch size 33, this device trains with 1 to 32"
    )
    update = replace(plan.update, coordinates=69)
    assert abstains(equipped, replace(plan, update=update)) == "69 coordinates of a head of 68"
    update = replace(plan.update, coordinates=0)
    assert abstains(equipped, replace(plan, update=update)) == "0 coordinates of a head of 68"


def test_a_plan_long_expired_is_abstained_from_and_a_late_one_is_not(equipped, plan):
    assert kinds(equipped.plan(replace(plan, deadline_unix_s=NOW - 3599))) == [Train]
    equipped.answer(plan)
    detail = abstains(equipped, replace(plan, round=2, deadline_unix_s=NOW - 3700))
    assert detail == "the deadline is 3700 s past by this device's clock; check the clock"


def test_the_status_tells_backend_and_drift_once_they_are_known(equipped, plan):
    equipped.plan(plan)
    prepared = Prepared(num_examples=36, backend="litert", arithmetic_drift_lsb=1)
    status = only(PublishStatus, equipped.take(prepared)).status
    assert (status.backend, status.arithmetic_drift_lsb) == ("litert", 1)
    assert equipped.take(prepared) == []
