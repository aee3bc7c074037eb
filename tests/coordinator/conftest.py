"""A small federation for the coordinator's tests: six parameters, named devices, messages made by hand."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from sanderling.broker import codec
from sanderling.broker.messages import (
    EvaluationMessage,
    EvaluationResult,
    StatusMessage,
    TrainingPlan,
    UpdateMessage,
)
from sanderling.broker.topics import Topics
from sanderling.coordinator.door import admit
from sanderling.coordinator.rounds import (
    CoordinatorState,
    DeviceStatus,
    Effect,
    Event,
    Tick,
    coordinates_of,
    evaluated_models,
    new_state,
    step,
    update_plan,
)
from sanderling.coordinator.server_optimizers import fedavg
from sanderling.coordinator.settings import (
    CoordinatorSettings,
    RoundSettings,
    SelectionSettings,
    UpdateSettings,
)
from sanderling.models.updates import GlobalModel, QuantizedUpdate

DEVICES = ("a", "b", "c", "d")
RUN = "run1"
INITIAL = GlobalModel(version=0, backbone_hash=bytes(32), theta=np.arange(6, dtype=np.int32))


def make_settings(
    *, mode: str = "deadline", devices: tuple[str, ...] = DEVICES, **changes: object
) -> CoordinatorSettings:
    """Deadline 10 s, quorum 2, 3 rounds, every coordinate, plain FedAvg; `changes` to any of it by name."""
    rounds = RoundSettings(mode=mode, count=3, deadline_s=10.0, quorum=2, patience=0)
    selection = SelectionSettings(cohort=0, expected_dropout=0.0, minimum=2)
    update = UpdateSettings(mode="mask", density=1.0, mask_rounds=1, scale_shift=0, clipping_norm=0)
    parts = {"rounds": rounds, "selection": selection, "update": update}
    for name, part in parts.items():
        own = {key: changes.pop(key) for key in list(changes) if key in part.__slots__}
        parts[name] = replace(part, **own)
    assert not changes, f"no such setting: {changes}"
    return CoordinatorSettings(
        federation="lab",
        devices=devices,
        arithmetic="exact",
        training=TrainingPlan(epochs=1, batch_size=1, learning_rate_q16=1, proximal_mu_q16=0, seed=7),
        optimizer=fedavg(),
        max_examples=100,
        **parts,
    )


def status(state: str = "online", receive_buffer_bytes: int | None = None) -> StatusMessage:
    return StatusMessage(
        state=state,
        num_examples=5,
        boot=bytes(8),
        backend="reference",
        software="t",
        arithmetic_drift_lsb=None,
        detail="",
        receive_buffer_bytes=receive_buffer_bytes,
    )


@dataclass
class Lab:
    """A coordinator's core and the messages that reach it; `effects` collects what it asked for."""

    settings: CoordinatorSettings
    state: CoordinatorState
    effects: list[Effect]
    now: float = 1000.0

    @property
    def topics(self) -> Topics:
        return Topics("lab")

    def take(self, event: Event) -> None:
        self.state, effects = step(self.settings, self.state, event, self.now)
        self.effects += effects

    def announce(self, *devices: str, state: str = "online", receive_buffer_bytes: int | None = None) -> None:
        for device in devices:
            self.take(DeviceStatus(device_id=device, status=status(state, receive_buffer_bytes)))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.take(Tick())

    def update(self, value: int = 1, **changes: object) -> bytes:
        """An update for the open round in which every sent coordinate changed by `value`."""
        opened = self.state.open
        number = opened.number if opened else 1
        dimension = self.state.model.theta.size
        plan = opened.update if opened else update_plan(self.settings, self.state, number)
        coordinates = coordinates_of("lab", plan, dimension)
        if coordinates is None:
            coordinates = np.arange(plan.coordinates, dtype=np.int32)
        quantized = QuantizedUpdate(
            dimension=dimension,
            coordinates=coordinates,
            values=np.full(coordinates.size, value, dtype=np.int8),
            scale_shift=plan.scale_shift,
        )
        payload = codec.encode(quantized, shared_coordinates=self.settings.update.mode == "mask")
        fields = {
            "run": RUN,
            "round": number,
            "model_hash_prefix": self.state.model.model_hash[:8],
            "num_examples": 10,
            "training_loss_milli": 500,
            "validation_correct": 5,
            "validation_count": 10,
            "validation_loss_milli": 700,
            "duration_ms": 3,
            "payload": payload,
        }
        return UpdateMessage(**(fields | changes)).encode()

    def deliver(self, device: str, payload: bytes, kind: str = "update") -> None:
        """Through the door, as from the broker. Raises ProtocolError when it is refused; then nothing has changed."""
        topic = getattr(self.topics, kind)(device)
        self.take(admit(self.settings, self.state, self.topics, topic, payload))

    def report(self, *devices: str, value: int = 1, **changes: object) -> None:
        for device in devices:
            self.deliver(device, self.update(value, **changes))

    def evaluation(self, **changes: object) -> bytes:
        results = tuple(
            EvaluationResult(model_hash=model.model_hash, correct=index, examples=4, loss_milli=1)
            for index, model in enumerate(evaluated_models(self.state))
        )
        return EvaluationMessage(**({"run": RUN, "results": results} | changes)).encode()

    def of(self, kind: type) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


@pytest.fixture
def lab():
    """Makes a Lab with given settings."""

    def make(**changes: object) -> Lab:
        return Lab(make_settings(**changes), new_state(RUN, INITIAL, 100), [])

    return make
