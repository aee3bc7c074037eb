"""The device's own work: examples from its source, features from the backbone, training and evaluation on them.

The features of the network in use are cached: the frozen backbone runs once a window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sanderling.broker.messages import EvaluationMessage, EvaluationResult, RoundPlan, UpdateMessage
from sanderling.edge_runtime import backends, trainer
from sanderling.edge_runtime.agent import Evaluate, Evaluated, Event, Failed, Prepared, Train, Trained
from sanderling.edge_runtime.backends import Backend, Int8Array, Preference
from sanderling.edge_runtime.budget import Choice, RoundBudget, choose
from sanderling.edge_runtime.capability import (
    CapabilityProfile,
    head_steps,
    measure,
    observe,
    read_device,
)
from sanderling.edge_runtime.examples import NOT_KEPT, ExampleStore
from sanderling.edge_runtime.memory import Question
from sanderling.edge_runtime.sources import Source, Windows
from sanderling.edge_runtime.trainer import Examples, HeadTraining, LocalData
from sanderling.models.errors import DatasetError, SanderlingError
from sanderling.models.native_training import open_training
from sanderling.models.package import ModelPackage
from sanderling.models.random_bits import derive_key, permutation
from sanderling.models.tail import DenseHead, dense_head
from sanderling.models.training import LocalTraining, evaluate_head, train_head
from sanderling.models.updates import GlobalModel

READ_WINDOWS = 64  # at once through the backbone, which bounds the memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ready:
    """A network made ready on this device's data."""

    network_hash: bytes
    arithmetic: str
    head: DenseHead
    data: LocalData
    learn: HeadTraining


class Workbench:
    """`read` gives the device's windows, each time it is asked; at most `capacity` of them are kept to train on."""

    def __init__(
        self,
        *,
        federation: str,
        device_id: str,
        read: Callable[[], Source],
        capacity: int,
        preference: Preference,
        log: Callable[[str], None],
        budget: RoundBudget | None = None,
    ) -> None:
        self._federation, self._device_id, self._budget = federation, device_id, budget
        self._read, self._capacity, self._preference, self._log = read, capacity, preference, log
        self._ready: _Ready | None = None
        self._profile: CapabilityProfile | None = None  # measured once a budget asks for it
        self.num_examples = min(len(read().train.labels), capacity)

    def do(self, work: Train | Evaluate) -> list[Event]:
        """Trains or evaluates: what came of it, and before that what was made ready for it."""
        question = Question(run=work.plan.run, round=work.plan.round, phase=work.plan.phase)
        events: list[Event] = []
        try:
            if isinstance(work, Train):
                events.append(self._train(question, work, events.append))
            else:
                events.append(self._evaluate(question, work, events.append))
        except SanderlingError as problem:
            events.append(Failed(question=question, detail=str(problem)))
        return events

    def _train(self, question: Question, work: Train, tell: Callable[[Event], None]) -> Event:
        ready = self._prepare(work.plan, work.package, tell)
        local, data = trainer.local_training(work.plan), ready.data
        if self._budget is not None:
            choice = self._choose(self._budget, ready, local)
            if choice.steps == 0:
                return Failed(question=question, detail=choice.reason)
            local, data = choice.training, self._chosen(work.plan, data, choice.examples)
        message, residual = trainer.train(
            work.plan,
            self._device_id,
            ready.head,
            work.model.theta,
            data,
            work.residual,
            time.monotonic,
            local,
            ready.learn,
        )
        self._learn_cost(local, message)
        self._log(
            f"round {message.round}: {message.num_examples} examples, "
            f"accuracy before {message.validation_correct}/{message.validation_count}, "
            f"training loss {message.training_loss_milli / 1000:.3f}, {message.duration_ms} ms"
        )
        return Trained(question=question, payload=message.encode(), residual=residual)

    def _choose(self, budget: RoundBudget, ready: _Ready, plan: LocalTraining) -> Choice:
        """What of the plan the budget allows, by what a step of this head takes on this device."""
        if self._profile is None:
            cost = measure("head", head_steps(ready.head), time.monotonic)
            self._profile = CapabilityProfile(device=read_device(), tails=(cost,))
        choice = choose(budget, self._profile, len(ready.data.train.labels), plan)
        self._log(f"budget: {choice.reason}")
        return choice

    def _chosen(self, plan: RoundPlan, data: LocalData, count: int) -> LocalData:
        """`count` of the training examples, others each round: their order in the store mixes no classes."""
        if count >= len(data.train.labels):
            return data
        key = derive_key("subset", plan.federation, plan.training.seed, plan.round, self._device_id)
        chosen = permutation(key, len(data.train.labels))[:count]
        part = Examples(features=data.train.features[chosen], labels=data.train.labels[chosen])
        return replace(data, train=part)

    def _learn_cost(self, local: LocalTraining, message: UpdateMessage) -> None:
        """The next choice knows what this round took."""
        if self._profile is None:
            return
        examples = local.epochs * message.num_examples
        steps = local.epochs * -(-message.num_examples // local.batch_size)
        cost = observe(self._profile.tails[0], steps, examples, message.duration_ms / 1000)
        self._profile = replace(self._profile, tails=(cost,))

    def _evaluate(self, question: Question, work: Evaluate, tell: Callable[[Event], None]) -> Event:
        results = []
        for model in work.models:
            ready = self._prepare(work.plan, work.packages[model.backbone_hash], tell)
            results.append(_evaluation(ready, model))
        message = EvaluationMessage(run=work.plan.run, results=tuple(results))
        return Evaluated(question=question, payload=message.encode())

    def _prepare(self, plan: RoundPlan, package: ModelPackage, tell: Callable[[Event], None]) -> _Ready:
        network_hash = package.network.content_hash
        ready = self._ready
        if ready is not None and (ready.network_hash, ready.arithmetic) == (network_hash, plan.arithmetic):
            return ready
        head, source = dense_head(package.network), self._read()
        _check(source, package, head)
        backend = backends.open_chosen(plan.arithmetic, self._preference, package.network, head, self._log)
        data = LocalData(
            train=self._keep(source.train, package, head, backend),
            validation=_all(source.validation, package, head, backend),
            test=_all(source.test, package, head, backend),
        )
        self._ready = _Ready(
            network_hash=network_hash,
            arithmetic=plan.arithmetic,
            head=head,
            data=data,
            learn=open_training().train_head if backend.name == "native" else train_head,
        )
        tell(
            Prepared(
                num_examples=len(data.train.labels),
                backend=backend.name,
                arithmetic_drift_lsb=_drift(backend, package, head, source),
            )
        )
        return self._ready

    def _keep(self, windows: Windows, package: ModelPackage, head: DenseHead, backend: Backend) -> Examples:
        store = ExampleStore(
            capacity=min(self._capacity, max(1, len(windows.labels))),
            features=head.features,
            classes=head.classes,
            key=derive_key("examples", self._federation, self._device_id),
        )
        slots = store.offer(windows.labels)
        kept = slots != NOT_KEPT
        store.write(slots[kept], _features(windows.examples[kept], package, head, backend))
        return Examples(features=store.features, labels=store.labels)


def _all(windows: Windows, package: ModelPackage, head: DenseHead, backend: Backend) -> Examples:
    return Examples(features=_features(windows.examples, package, head, backend), labels=windows.labels)


def _features(
    windows: NDArray[np.float32], package: ModelPackage, head: DenseHead, backend: Backend
) -> Int8Array:
    features = np.empty((len(windows), head.features), np.int8)
    for first in range(0, len(windows), READ_WINDOWS):
        part = slice(first, first + READ_WINDOWS)
        features[part] = backend.features(package.preprocessing.quantize_input(windows[part]))
    return features


def _drift(backend: Backend, package: ModelPackage, head: DenseHead, source: Source) -> int | None:
    if backend.exact:
        return None
    windows = np.concatenate([source.train.examples, source.validation.examples])[: backends.DRIFT_WINDOWS]
    reference = backends.open_backend("reference", package.network, head)
    return backends.drift_lsb(backend, reference, package.preprocessing.quantize_input(windows))


def _evaluation(ready: _Ready, model: GlobalModel) -> EvaluationResult:
    test = ready.data.test
    done = evaluate_head(ready.head, model.theta, test.features, test.labels)
    return EvaluationResult(
        model_hash=model.model_hash,
        correct=done.correct,
        examples=done.count,
        loss_milli=trainer.milli(done.mean_loss),
    )


def _check(source: Source, package: ModelPackage, head: DenseHead) -> None:
    """Whether the data is such as the network takes."""
    network = package.network
    expected = network.tensors[network.inputs[0]].shape[1:]
    came = source.train.examples.shape[1:]
    if ((1, *came) if len(came) == 2 else came) != expected:
        raise DatasetError(f"windows of shape {came}, network {network.name!r} takes {expected}")
    for windows in (source.train, source.validation, source.test):
        if windows.labels.max(initial=0) >= head.classes:
            raise DatasetError(
                f"label {windows.labels.max()}, network {network.name!r} has classes 0 to {head.classes - 1}"
            )
