"""The coordinator's door: a payload from the broker becomes an event, or is refused with a counted reason.

docs/wire.md, "What a receiver does with bad input", is the rule this code follows. Nothing a device sends can raise
anything but ProtocolError here, and nothing is allocated beyond the round's own dimension.
"""

from __future__ import annotations

import functools

from sanderling.broker import codec
from sanderling.broker.errors import (
    CodecError,
    DuplicateError,
    MessageError,
    NotInCohortError,
    UnknownDeviceError,
    WrongModelError,
    WrongRoundError,
    WrongRunError,
)
from sanderling.broker.messages import EvaluationMessage, StatusMessage, UpdateMessage, UpdatePlan
from sanderling.broker.topics import Topics
from sanderling.coordinator.reports import Report
from sanderling.coordinator.rounds import (
    CoordinatorState,
    DeviceStatus,
    Evaluated,
    Event,
    ReportArrived,
    coordinates_of,
    evaluated_models,
)
from sanderling.coordinator.settings import CoordinatorSettings
from sanderling.models.updates import Int32Vector

MAX_DEVICES = 100_000  # an open federation's bound on who is remembered


def admit(
    settings: CoordinatorSettings, state: CoordinatorState, topics: Topics, topic: str, payload: bytes
) -> Event:
    """The event that a message stands for. Raises ProtocolError with the reason it is refused."""
    device_id = topics.device_of(topic)
    if device_id is None:
        raise MessageError("topic", f"expected a device's update, status or evaluation, came {topic!r:.200}")
    kind = topic.rpartition("/")[2]
    _check_known(settings, state, device_id, kind)
    match kind:
        case "status":
            return DeviceStatus(device_id=device_id, status=StatusMessage.decode(payload))
        case "update":
            message = UpdateMessage.decode(payload)
            return ReportArrived(report=_report(settings, state, device_id, message, payload))
        case _:
            evaluation = EvaluationMessage.decode(payload)
            _check_evaluation(state, device_id, evaluation)
            return Evaluated(device_id=device_id, message=evaluation)


def decode_report(
    federation: str, plan: UpdatePlan, dimension: int, device_id: str, payload: bytes
) -> Report:
    """A report as it was sent under `plan`, decoded within its bounds; also how a replay reads it."""
    message = UpdateMessage.decode(payload)
    return _decoded(federation, plan, dimension, device_id, message, payload)


def _check_known(settings: CoordinatorSettings, state: CoordinatorState, device_id: str, kind: str) -> None:
    if device_id in state.devices:  # let in before; far sooner found than among thousands of names
        return
    if settings.devices:
        if device_id not in settings.devices:
            raise UnknownDeviceError(device_id)
    elif kind != "status" or len(state.devices) >= MAX_DEVICES:
        raise UnknownDeviceError(device_id)


def _report(
    settings: CoordinatorSettings,
    state: CoordinatorState,
    device_id: str,
    message: UpdateMessage,
    payload: bytes,
) -> Report:
    opened = state.open
    _check_run(state, device_id, message.run)
    if opened is None or message.round != opened.number:
        raise WrongRoundError(device_id, opened.number if opened else state.rounds_closed, message.round)
    if device_id in opened.reports:
        raise DuplicateError(device_id, message.round)
    if device_id not in opened.cohort:
        raise NotInCohortError(device_id, message.round)
    expected = state.model.model_hash[:8]
    if message.model_hash_prefix != expected:
        raise WrongModelError(device_id, expected, message.model_hash_prefix)
    dimension = state.model.theta.size
    return _decoded(settings.federation, opened.update, dimension, device_id, message, payload)


def _decoded(
    federation: str, plan: UpdatePlan, dimension: int, device_id: str, message: UpdateMessage, payload: bytes
) -> Report:
    update = codec.decode(
        message.payload,
        dimension=dimension,
        coordinates=_round_coordinates(federation, plan, dimension),
        max_coordinates=plan.coordinates,
    )
    if update.scale_shift != plan.scale_shift:
        raise CodecError(f"expected the plan's scale shift {plan.scale_shift}, came {update.scale_shift}")
    return Report(
        device_id=device_id,
        num_examples=message.num_examples,
        update=update,
        validation_correct=message.validation_correct,
        validation_count=message.validation_count,
        validation_loss=message.validation_loss_milli / 1000,
        training_loss=message.training_loss_milli / 1000,
        message=payload,
    )


@functools.lru_cache(maxsize=4)
def _round_coordinates(federation: str, plan: UpdatePlan, dimension: int) -> Int32Vector | None:
    """`coordinates_of`, once a round instead of once a report."""
    return coordinates_of(federation, plan, dimension)


def _check_run(state: CoordinatorState, device_id: str, run: str) -> None:
    if run != state.run:
        raise WrongRunError(device_id, state.run, run)


def _check_evaluation(state: CoordinatorState, device_id: str, message: EvaluationMessage) -> None:
    _check_run(state, device_id, message.run)
    if state.final is None:
        raise WrongRoundError(device_id, state.rounds_closed, state.rounds_closed + 1)
    if device_id in state.evaluations:
        raise DuplicateError(device_id, state.rounds_closed)
    asked = {model.model_hash for model in evaluated_models(state)}
    for result in message.results:
        if result.model_hash not in asked:
            raise WrongModelError(device_id, state.final.model_hash, result.model_hash)
