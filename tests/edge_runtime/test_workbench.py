from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanderling.broker.messages import EvaluationMessage, UpdateMessage
from sanderling.edge_runtime.agent import Evaluate, Evaluated, Failed, Prepared, Train, Trained
from sanderling.edge_runtime.budget import RoundBudget
from sanderling.edge_runtime.sources import SourceSettings, Windows, read_source
from sanderling.edge_runtime.workbench import Workbench
from sanderling.models.inference import features
from sanderling.models.tail import dense_head
from sanderling.models.training import evaluate_head


@pytest.fixture
def source(tmp_path, make):
    path = make.write_data(tmp_path / "own.npz")
    return read_source(SourceSettings(name="folder", client="dev-1", options={"path": path}))


class Bench:
    def __init__(self, source, **options: object) -> None:
        self.reads = 0
        self.lines: list[str] = []
        self.source = source
        defaults = {"capacity": 4096, "preference": "auto"}
        self.workbench = Workbench(
            federation="bench",
            device_id="dev-1",
            read=self.read,
            log=self.lines.append,
            **(defaults | options),
        )

    def read(self):
        self.reads += 1
        return self.source


def work(plan, package, model) -> Train:
    return Train(plan=plan, package=package, model=model, residual=None)


def failure(events) -> str:
    (failed,) = events
    assert isinstance(failed, Failed)
    return failed.detail


def test_a_network_is_made_ready_once_and_told(source, plan, package, model):
    bench = Bench(source)
    prepared, first = bench.workbench.do(work(plan, package, model))
    assert prepared == Prepared(num_examples=36, backend="reference", arithmetic_drift_lsb=None)
    (second,) = bench.workbench.do(work(plan, package, model))
    assert isinstance(first, Trained)
    durations = [replace(UpdateMessage.decode(each.payload), duration_ms=0) for each in (first, second)]
    assert durations[0] == durations[1]
    assert bench.reads == 2  # to count, and to make ready


def test_another_arithmetic_is_another_readiness(source, plan, package, model):
    bench = Bench(source)
    bench.workbench.do(work(plan, package, model))
    prepared, _ = bench.workbench.do(work(replace(plan, arithmetic="fast"), package, model))
    assert prepared.backend != "reference"
    assert 0 <= prepared.arithmetic_drift_lsb <= 2


def test_a_bounded_store_trains_on_as_many(source, plan, package, model):
    bench = Bench(source, capacity=20)
    assert bench.workbench.num_examples == 20
    prepared, trained = bench.workbench.do(work(plan, package, model))
    assert prepared.num_examples == 20
    assert UpdateMessage.decode(trained.payload).num_examples == 20


def test_each_model_is_evaluated_on_the_test_part(source, plan, package, model, make):
    last = make.next_model(model)
    effect = Evaluate(
        plan=replace(plan, phase="finished"),
        packages={model.backbone_hash: package},
        models=(model, last),
    )
    _, evaluated = Bench(source).workbench.do(effect)
    assert isinstance(evaluated, Evaluated)
    head = dense_head(package.network)
    inputs = package.preprocessing.quantize_input(source.test.examples)
    of_test = features(package.network, inputs, head.layer)
    for result, each in zip(EvaluationMessage.decode(evaluated.payload).results, (model, last), strict=True):
        expected = evaluate_head(head, each.theta, of_test, source.test.labels)
        assert (result.correct, result.examples) == (expected.correct, 12)
        assert result.loss_milli == round(1000 * expected.mean_loss)


@pytest.mark.parametrize("shape", [(20, 2), (10, 6), (60,), (1, 1, 20, 3)])
def test_windows_of_another_shape_are_told_with_both_shapes(source, plan, package, model, shape):
    other = Windows(examples=np.zeros((4, *shape), np.float32), labels=np.zeros(4, np.int64))
    bench = Bench(replace(source, train=other, validation=other, test=other))
    detail = failure(bench.workbench.do(work(plan, package, model)))
    assert detail == f"windows of shape {shape}, network 'small' takes (1, 20, 3)"


def test_a_label_the_network_has_no_class_for_is_told(source, plan, package, model):
    labels = np.append(source.test.labels[:-1], 4)
    bench = Bench(replace(source, test=replace(source.test, labels=labels)))
    detail = failure(bench.workbench.do(work(plan, package, model)))
    assert detail == "label 4, network 'small' has classes 0 to 3"


def test_a_backend_that_is_set_and_missing_is_told_with_its_extra(source, plan, package, model, monkeypatch):
    monkeypatch.setattr("sanderling.edge_runtime.backends.available", lambda: ("reference",))
    bench = Bench(source, preference="tflite")
    detail = failure(bench.workbench.do(work(replace(plan, arithmetic="fast"), package, model)))
    assert "'tflite' is not installed" in detail
    assert "sanderling[tflite]" in detail
    assert isinstance(bench.workbench.do(work(plan, package, model))[-1], Trained)  # exact needs none


def test_data_that_can_no_longer_be_read_is_told(plan, package, model, tmp_path, make):
    path = make.write_data(tmp_path / "own.npz")
    settings = SourceSettings(name="folder", client="dev-1", options={"path": path})
    workbench = Workbench(
        federation="bench",
        device_id="dev-1",
        read=lambda: read_source(settings),
        capacity=4096,
        preference="auto",
        log=print,
    )
    path.unlink()
    assert "no such file" in failure(workbench.do(work(plan, package, model)))


def test_a_budget_of_steps_trains_part_of_an_epoch(source, plan, package, model):
    budget = RoundBudget(steps=2)  # 36 examples at a batch of up to 32 take 2 steps an epoch
    bench = Bench(source, budget=budget)
    _, trained = bench.workbench.do(work(plan, package, model))
    assert UpdateMessage.decode(trained.payload).num_examples == 36
    (line,) = [line for line in bench.lines if line.startswith("budget: ")]
    assert f"of {plan.training.epochs} epochs" in line


def test_a_budget_of_one_step_trains_on_as_many_examples_as_fit_in_it(source, plan, package, model):
    bench = Bench(source, budget=RoundBudget(steps=1))
    _, trained = bench.workbench.do(work(plan, package, model))
    assert UpdateMessage.decode(trained.payload).num_examples == 32


def test_a_budget_below_a_step_sits_the_round_out_and_says_why(source, plan, package, model):
    bench = Bench(source, budget=RoundBudget(seconds=1e-9))
    _, failed = bench.workbench.do(work(plan, package, model))
    assert isinstance(failed, Failed)
    assert "not a step fits the budget" in failed.detail


def test_a_budget_that_allows_the_plan_changes_no_byte(source, plan, package, model):
    free = Bench(source).workbench.do(work(plan, package, model))[-1]
    bound = Bench(source, budget=RoundBudget(seconds=3600)).workbench.do(work(plan, package, model))[-1]
    payloads = [UpdateMessage.decode(each.payload).payload for each in (free, bound)]
    assert payloads[0] == payloads[1]
