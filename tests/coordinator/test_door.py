"""Each bad input of docs/wire.md is refused with its reason, and the state is the same object as before."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.messages import EvaluationMessage, EvaluationResult
from sanderling.coordinator.door import admit
from sanderling.models.errors import ProtocolError
from sanderling.models.updates import QuantizedUpdate


def refusal(lab, device: str, payload: bytes, kind: str = "update") -> str:
    before, effects = lab.state, list(lab.effects)
    with pytest.raises(ProtocolError) as caught:
        lab.deliver(device, payload, kind)
    assert lab.state is before and lab.effects == effects
    return caught.value.reason


@pytest.fixture
def opened(lab):
    """Round 1 is open and asks a and b; c and d are there too."""
    lab = lab()
    lab.announce("a", "b", "c", "d")
    assert lab.state.open.cohort == ("a", "b")
    return lab


def encoded(scale_shift: int = 0, dimension: int = 6, count: int = 6) -> bytes:
    update = QuantizedUpdate(
        dimension=dimension,
        coordinates=np.arange(count, dtype=np.int32),
        values=np.ones(count, dtype=np.int8),
        scale_shift=scale_shift,
    )
    return codec.encode(update, shared_coordinates=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "other"}, "wrong_run"),
        ({"round": 2}, "wrong_round"),
        ({"round": 0}, "wrong_round"),
        ({"model_hash_prefix": b"another!"}, "wrong_model"),
        ({"payload": b""}, "codec"),
        ({"payload": b"\xff" * 40}, "unknown_version"),
        ({"payload": encoded(scale_shift=1)}, "codec"),
        ({"payload": encoded(dimension=7, count=7)}, "codec"),
        ({"payload": encoded(count=5)}, "codec"),
        ({"payload": encoded()[:-1]}, "codec"),
        ({"payload": encoded() + b"\0"}, "codec"),
    ],
)
def test_an_update_that_does_not_fit_the_round_is_refused(opened, changes: dict, reason: str) -> None:
    assert refusal(opened, "a", opened.update(**changes)) == reason


def test_a_second_report_of_a_device_is_refused(opened) -> None:
    opened.report("a")
    assert refusal(opened, "a", opened.update(value=100)) == "duplicate"


def test_a_late_report_is_refused(opened) -> None:
    late = opened.update()
    opened.report("a", "b")
    assert refusal(opened, "c", late) == "wrong_round"


def test_a_device_that_was_not_asked_is_refused(opened) -> None:
    assert refusal(opened, "c", opened.update()) == "not_in_cohort"


@pytest.mark.parametrize("kind", ["update", "status", "evaluation"])
def test_a_device_that_is_not_named_is_refused(opened, kind: str) -> None:
    assert refusal(opened, "stranger", b"", kind) == "unknown_device"


def test_an_open_federation_admits_whom_it_has_met(lab) -> None:
    lab = lab(devices=())
    lab.announce("x", "y")
    assert refusal(lab, "z", lab.update()) == "unknown_device"
    lab.report("x", "y")
    assert lab.state.model.version == 1


@pytest.mark.parametrize(
    "topic", ["sanderling/1/lab/plan", "sanderling/1/other/device/a/update", "", "x" * 70000]
)
def test_a_topic_that_is_no_device_s_is_refused(opened, topic: str) -> None:
    with pytest.raises(ProtocolError):
        admit(opened.settings, opened.state, opened.topics, topic, opened.update())


def test_an_evaluation_before_the_end_is_refused(opened) -> None:
    results = (EvaluationResult(model_hash=bytes(32), correct=0, examples=1, loss_milli=0),)
    message = EvaluationMessage(run="run1", results=results).encode()
    assert refusal(opened, "a", message, "evaluation") == "wrong_round"


def test_an_evaluation_of_another_model_or_said_twice_is_refused(lab) -> None:
    lab = lab(count=1, minimum=3)
    lab.announce("a", "b", "c")
    lab.report("a", "b", "c")
    other = (EvaluationResult(model_hash=bytes(32), correct=0, examples=1, loss_milli=0),)
    assert refusal(lab, "a", lab.evaluation(results=other), "evaluation") == "wrong_model"
    lab.deliver("a", lab.evaluation(), "evaluation")
    assert refusal(lab, "a", lab.evaluation(), "evaluation") == "duplicate"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_of_an_update_raises_anything_but_a_refusal(lab, data) -> None:
    lab = lab()
    lab.announce("a", "b")
    good = bytearray(lab.update(value=3))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        lab.deliver("a", cut)
    except ProtocolError as error:
        assert error.reason
