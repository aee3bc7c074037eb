"""The agent under a publish policy: what it does not begin, keeps, or sends later; no link, no disk, no clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanderling.broker.messages import UpdateMessage
from sanderling.edge_runtime import agent
from sanderling.edge_runtime.agent import (
    AgentState,
    BeginRound,
    Log,
    Looked,
    PublishReport,
    PublishStatus,
    Received,
    Store,
    Stored,
    Subscribe,
    Train,
    Trained,
    Wait,
)
from sanderling.edge_runtime.byte_budget import DAY_S, Left
from sanderling.edge_runtime.memory import Question
from sanderling.edge_runtime.publish_policy import Circumstances, Rules
from sanderling.edge_runtime.trainer import Examples, LocalData, train
from sanderling.models.tail import dense_head

NOW = 20_000.0 * DAY_S


class Bench:
    """An agent under rules, with network and model at hand."""

    def __init__(self, package, model, **changes) -> None:
        state = AgentState(
            federation="bench",
            device_id="dev-1",
            num_examples=36,
            software="test",
            boot=bytes(8),
            networks={package.network.content_hash: package},
            models={model.model_hash: model},
            rules=Rules(),
        )
        self.state = replace(state, **changes)
        self.package, self.model, self.now = package, model, NOW

    def take(self, *events) -> list:
        done = []
        for event in events:
            self.state, effects = agent.step(self.state, event, self.now)
            done += effects
        return done

    def plan(self, plan) -> list:
        done = self.take(Received(topic=self.state.topics.plan, payload=plan.encode()))
        return done + self.take(Looked()) if of(BeginRound, done) else done

    def left(self, day=None, of_round=None) -> None:
        self.state = replace(self.state, around=Circumstances(left=Left(day=day, round=of_round)))

    def train(self, work: Train) -> list:
        """As the shell would."""
        head = dense_head(self.package.network)
        rng = np.random.default_rng(work.plan.round)
        some = Examples(
            features=rng.integers(-128, 128, (40, head.features)).astype(np.int8),
            labels=rng.integers(0, head.classes, 40),
        )
        data = LocalData(train=some, validation=some, test=some)
        message, residual = train(
            work.plan, "dev-1", head, work.model.theta, data, work.residual, lambda: 0.0
        )
        question = Question(run=work.plan.run, round=work.plan.round, phase=work.plan.phase)
        return self.take(
            Trained(question=question, payload=message.encode(), residual=residual), Stored(question=question)
        )


def of(kind, effects) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


@pytest.fixture
def bench(package, model):
    return lambda **changes: Bench(package, model, **changes)


def test_a_rounds_bytes_are_counted_from_its_plan_to_its_deadline(bench, plan):
    (begun,) = of(BeginRound, bench().plan(replace(plan, deadline_unix_s=NOW + 60)))
    assert begun.ends == NOW + 60
    assert begun.plan_bytes > len(plan.encode())
    assert of(BeginRound, bench().plan(replace(plan, cohort=("other",)))) == []


def test_without_a_policy_nothing_is_held_back(bench, plan):
    one = bench(rules=None)
    one.left(day=0)
    assert len(of(Train, one.plan(plan))) == 1


def test_a_round_that_the_budget_cannot_hold_is_not_begun_and_the_device_rests_until_the_day_is_over(
    bench, plan
):
    one = bench()
    one.left(day=100)
    effects = one.plan(plan)
    assert of(Train, effects) == of(Subscribe, effects) == []
    assert of(Log, effects)[0].line.startswith("round 1 of run run-a: skip: ")
    (status,) = of(PublishStatus, effects)
    assert status.status.state == "offline"
    assert "the day's budget holds 100" in status.status.detail
    assert of(Wait, effects) == [Wait(at=NOW + DAY_S)]
    assert of(PublishStatus, one.plan(replace(plan, round=2))) == []  # said once
    one.left(day=10_000)
    assert of(PublishStatus, one.take(Looked())) == []  # before its time
    one.now += DAY_S
    (awake,) = of(PublishStatus, one.take(Looked()))
    assert awake.status.state == "online"
    assert len(of(Train, one.plan(replace(plan, round=3)))) == 1


def test_a_model_that_does_not_fit_the_rounds_budget_is_not_fetched(bench, plan):
    one = bench(models={})
    one.left(of_round=600)
    assert of(Subscribe, one.plan(plan)) == []
    two = bench(models={})
    two.left(of_round=3_000)
    assert len(of(Subscribe, two.plan(plan))) == 1


def test_an_update_that_does_not_fit_any_more_is_coalesced_and_travels_with_the_next(bench, plan):
    plan = replace(plan, update=replace(plan.update, mask_epoch=5))
    one = bench()
    (work,) = of(Train, one.plan(plan))
    one.left(of_round=10)
    effects = one.train(work)
    assert of(PublishReport, effects) == []
    kept = of(Store, effects)[-1].memory
    assert kept.report is None
    assert kept.residual.mask_epoch == 5
    assert np.count_nonzero(kept.residual.vector)
    one.left()
    (again,) = of(Train, one.plan(replace(plan, round=2)))
    assert again.residual is kept.residual
    (sent,) = of(PublishReport, one.train(again))
    alone = bench()
    (work,) = of(Train, alone.plan(replace(plan, round=2)))
    (without,) = of(PublishReport, alone.train(work))
    assert UpdateMessage.decode(sent.payload).payload != UpdateMessage.decode(without.payload).payload


def test_an_update_that_waits_is_sent_when_it_is_looked_at_again(bench, plan):
    one = bench(rules=Rules(least_battery=0.5))
    (work,) = of(Train, one.plan(replace(plan, deadline_unix_s=NOW + 100)))
    one.state = replace(one.state, around=Circumstances(battery=0.4, charging=True))
    effects = one.train(work)
    assert of(Wait, effects) == [Wait(at=NOW + 50)]
    one.state = replace(one.state, around=Circumstances(battery=0.6))
    assert len(of(PublishReport, one.take(Looked()))) == 1


def test_a_waiting_update_is_coalesced_when_the_next_plan_comes_and_one_that_was_sent_is_not(bench, plan):
    waits = bench(rules=Rules(least_battery=0.5))
    (work,) = of(Train, waits.plan(plan))
    waits.state = replace(waits.state, around=Circumstances(battery=0.4, charging=True))
    waits.train(work)
    waits.plan(replace(plan, round=2))
    assert waits.state.memory.report is None
    assert waits.state.memory.residual is not None
    sends = bench()
    (work,) = of(Train, sends.plan(plan))
    assert len(of(PublishReport, sends.train(work))) == 1
    sends.plan(replace(plan, round=2))
    assert sends.state.memory.report is None
    assert sends.state.memory.residual is None  # the coordinator may have counted it


def test_a_change_too_small_gathers_until_it_is_worth_sending(bench, plan):
    one = bench(rules=Rules(least_change=0.9))
    (work,) = of(Train, one.plan(plan))
    assert len(of(PublishReport, one.train(work))) == 1  # the first is the measure
    one.state = replace(one.state, largest_change=10 * one.state.largest_change, in_flight=False)
    (work,) = of(Train, one.plan(replace(plan, round=2)))
    effects = one.train(work)
    assert of(PublishReport, effects) == []
    assert "is under 90% of" in of(Log, effects)[0].line
    assert one.state.memory.residual is not None


def test_top_k_trains_for_as_many_coordinates_as_fit(bench, plan):
    topk = replace(plan, update=replace(plan.update, mode="topk"))
    one = bench(rules=Rules(aligned=False))
    one.left(of_round=480)
    (work,) = of(Train, one.plan(topk))
    assert 0 < work.plan.update.coordinates < plan.update.coordinates
