"""Head training in C: the committed thousand steps, and the reference's bytes for any head, batch and rates."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.models import native_training
from sanderling.models.arithmetic import quantize_multiplier
from sanderling.models.errors import SanderlingError, UsageError
from sanderling.models.native import Memory
from sanderling.models.native_training import NativeTraining
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.tail_lowering import head_struct
from sanderling.models.training import (
    LocalTraining,
    evaluate_head,
    train_head,
)
from tests.models.tails import blobs, make_head

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "training_head.json").read_text())


@pytest.fixture(scope="session")
def native(runtime):
    return NativeTraining(runtime)


def case_of(case):
    scale = {"zero_point": case["input_zero_point"], "weight_scale": case["weight_scale"]}
    head = make_head(case["features"], case["classes"], **scale)
    rates = {name: case[name] for name in ("batch_size", "learning_rate_q16", "proximal_mu_q16")}
    features = np.frombuffer(bytes.fromhex(case["inputs_int8"]), "i1").reshape(-1, head.features)
    theta = np.frombuffer(bytes.fromhex(case["theta_int16"]), "<i2").astype(np.int32)
    return head, rates, features, np.array(case["labels"]), theta


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_a_thousand_steps_of_the_vectors(native, case):
    head, rates, features, labels, theta = case_of(case)
    for epochs, expected in case["blake2b_after_epochs"].items():
        training = LocalTraining(epochs=int(epochs), **rates)
        trained = native.train_head(head, theta, features, labels, training, tuple(case["key"]))
        assert hashlib.blake2b(trained.astype("<i2").tobytes(), digest_size=32).hexdigest() == expected
    assert trained.astype("<i2").tobytes().hex() == case["trained_int16"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_scales_of_the_vectors(runtime, case):
    head = case_of(case)[0]
    fields = head_struct(head).fields
    assert [*fields["exp_scale"].fields.values(), fields["reach"]] == case["exponent_scale"]
    assert fields["bias_input"] == case["bias_input"]


@given(st.floats(0, 2**31 - 1) | st.floats(0, 1e-8) | st.integers(-40, 30).map(lambda e: 2.0**e))
def test_fixed_is_the_references(runtime, real):
    scale = runtime.lib.sl_fixed(real)
    assert (scale.multiplier, scale.shift) == quantize_multiplier(real)


@st.composite
def rounds(draw):
    """A head, examples, and how it is trained: rates from none to what saturates everything."""
    head = make_head(
        draw(st.integers(1, 21)),
        draw(st.integers(1, 6)),
        input_scale=draw(st.sampled_from([0.003, 0.05, 0.4])),
        zero_point=draw(st.integers(-128, 127)),
        weight_scale=draw(st.sampled_from([0.0005, 0.01, 0.3])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    features, labels = blobs(rng, head, draw(st.integers(0, 40)))
    spread = draw(st.sampled_from([10, 3000, THETA_LIMIT]))
    theta = rng.integers(-spread, spread + 1, head.dimension).astype(np.int32)
    training = LocalTraining(
        epochs=draw(st.integers(0, 3)),
        batch_size=draw(st.integers(1, 32)),
        learning_rate_q16=draw(st.sampled_from([0, 1, 655, 6554, 65536, 1 << 22])),
        proximal_mu_q16=draw(st.sampled_from([0, 0, 6554, 65536])),
    )
    return head, theta, features, labels, training, tuple(rng.integers(0, 1 << 32, 2).tolist())


@settings(max_examples=150, deadline=None)
@given(rounds())
def test_training_is_the_references(native, case):
    assert native.train_head(*case).tolist() == train_head(*case).tolist()


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_evaluation_is_the_references(native, case):
    expected, found = evaluate_head(*case[:4]), native.evaluate_head(*case[:4])
    assert (found.correct, found.count) == (expected.correct, expected.count)
    assert found.mean_loss == pytest.approx(expected.mean_loss, abs=1.5e-3, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_loss_is_within_a_thousandth(native, classes):
    head = make_head(16, classes)
    rng = np.random.default_rng(classes)
    for spread in (50, 1000, 10_000):
        theta = rng.integers(-spread, spread, head.dimension).astype(np.int32)
        features, labels = blobs(rng, head, 30)
        expected = evaluate_head(head, theta, features, labels).mean_loss
        found = native.evaluate_head(head, theta, features, labels).mean_loss
        assert found == pytest.approx(expected, abs=1.5e-3)


def test_the_library_of_this_machine_is_held_against_the_reference(monkeypatch, runtime):
    monkeypatch.setattr(native_training, "open_default", lambda: runtime)
    found = native_training.open_training()
    monkeypatch.setattr(NativeTraining, "train_head", lambda self, head, theta, *_: theta)
    with pytest.raises(SanderlingError, match="other bytes"):
        native_training.open_training()
    assert isinstance(found, NativeTraining)


class TestRefusals:
    HEAD = make_head(4, 3)
    FEATURES, LABELS = np.zeros((2, 4), np.int8), np.array([0, 2])
    THETA = np.zeros(15, np.int32)

    def refused(self, native, reason, theta=None, labels=None, **training):
        plan = LocalTraining(**{"epochs": 1, "batch_size": 1, "learning_rate_q16": 655} | training)
        theta, labels = self.THETA if theta is None else theta, self.LABELS if labels is None else labels
        with pytest.raises(UsageError, match=reason):
            native.train_head(self.HEAD, theta, self.FEATURES, labels, plan, (1, 2))

    @pytest.mark.parametrize("size", [0, 33])
    def test_batch_size(self, native, size):
        self.refused(native, "unsupported", batch_size=size)

    def test_rates_beyond_the_arithmetic(self, native):
        self.refused(native, "unsupported", learning_rate_q16=2**32 - 1, proximal_mu_q16=2**32 - 1)

    def test_theta_outside_its_range(self, native):
        self.refused(native, "malformed", theta=np.full(15, 32513, np.int32))

    def test_label_that_is_no_class(self, native):
        self.refused(native, "bad_sample", labels=np.array([0, 3]))


def test_scratch_memory_is_what_it_says(runtime, native):
    """Guard words behind the block stay as they are."""
    head, training = make_head(7, 3), LocalTraining(epochs=2, batch_size=5, learning_rate_q16=6554)
    features, labels = blobs(np.random.default_rng(1), head, 11)
    table = Memory(runtime).pointer(head_struct(head))
    size = runtime.lib.sl_head_scratch_bytes(table, 5, 11)
    scratch = runtime.ffi.new("uint8_t[]", size + 64)
    runtime.ffi.memmove(scratch + size, b"\xa5" * 64, 64)
    native._scratch = lambda *_: scratch
    try:
        native.train_head(head, np.zeros(24, np.int32), features, labels, training, (1, 2))
    finally:
        del native._scratch
    assert bytes(runtime.ffi.buffer(scratch + size, 64)) == b"\xa5" * 64
    assert bytes(runtime.ffi.buffer(scratch, size)) != bytes(size)
