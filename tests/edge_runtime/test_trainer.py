from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.messages import UpdateMessage
from sanderling.edge_runtime import trainer
from sanderling.edge_runtime.backends import open_backend
from sanderling.edge_runtime.trainer import Examples, LocalData, Residual
from sanderling.models.compression import dequantize, shared_mask, squared_norm
from sanderling.models.tail import dense_head
from sanderling.models.training import evaluate_head

D = 68  # 4 classes, 16 features and a bias each


@pytest.fixture(scope="module")
def head(network):
    return dense_head(network)


@pytest.fixture(scope="module")
def data(network, head, package, make) -> LocalData:
    backend = open_backend("reference", network, head)

    def part(count: int, seed: int) -> Examples:
        windows, labels = make.windows(count, seed)
        features = backend.features(package.preprocessing.quantize_input(windows))
        return Examples(features=features, labels=labels)

    return LocalData(train=part(60, 1), validation=part(30, 2), test=part(30, 3))


def train(plan, head, model, data, residual=None, device="dev-1"):
    return trainer.train(plan, device, head, model.theta, data, residual, iter([10.0, 10.25]).__next__)


def decoded(plan, message: UpdateMessage):
    coordinates = None
    if plan.update.mode == "mask":
        coordinates = shared_mask("bench", plan.update.mask_epoch, D, plan.update.coordinates)
    return codec.decode(message.payload, dimension=D, coordinates=coordinates)


def test_the_message_says_what_it_answers(plan, head, model, data):
    message, residual = train(plan, head, model, data)
    assert (message.run, message.round) == ("run-a", 1)
    assert message.model_hash_prefix == model.model_hash[:8]
    assert (message.num_examples, message.duration_ms) == (60, 250)
    assert residual is None
    assert UpdateMessage.decode(message.encode()) == message


def test_validation_is_of_the_model_before_training(plan, head, model, data):
    message, _ = train(plan, head, model, data)
    before = evaluate_head(head, model.theta, data.validation.features, data.validation.labels)
    assert (message.validation_correct, message.validation_count) == (before.correct, 30)
    assert message.validation_loss_milli == round(1000 * before.mean_loss)


def test_rounds_of_training_learn(plan, head, model, data):
    """A federation of one: the sent change, applied, fits the data better; dense, so that all of it travels."""
    update = replace(plan.update, coordinates=D)
    theta = model.theta
    losses = []
    for number in range(1, 9):
        current = replace(plan, round=number, update=update)
        message, _ = train(current, head, replace(model, theta=theta), data)
        theta = theta + dequantize(decoded(current, message))
        losses.append(message.validation_loss_milli)
    after = evaluate_head(head, theta, data.test.features, data.test.labels)
    before = evaluate_head(head, model.theta, data.test.features, data.test.labels)
    assert losses[-1] < 0.7 * losses[0]
    assert after.correct > before.correct


def test_the_same_round_gives_the_same_bytes(plan, head, model, data):
    first, _ = train(plan, head, model, data)
    second, _ = train(plan, head, model, data)
    assert first.encode() == second.encode()


def test_the_run_s_random_name_changes_no_byte_of_the_update(plan, head, model, data):
    first, _ = train(plan, head, model, data)
    second, _ = train(replace(plan, run="run-b"), head, model, data)
    assert first.payload == second.payload


@pytest.mark.parametrize("change", ["seed", "round", "federation", "device"])
def test_seed_round_federation_and_device_each_change_it(plan, head, model, data, change):
    update = replace(plan.update, coordinates=D)  # so that the mask does not depend on the federation
    plan = replace(plan, update=update)
    changed, device = plan, "dev-1"
    match change:
        case "seed":
            changed = replace(plan, training=replace(plan.training, seed=8))
        case "round":
            changed = replace(plan, round=2)
        case "federation":
            changed = replace(plan, federation="other")
        case "device":
            device = "dev-2"
    first, _ = train(plan, head, model, data)
    second, _ = train(changed, head, model, data, device=device)
    assert first.payload != second.payload


def test_a_mask_update_holds_the_round_s_coordinates_and_no_index(plan, head, model, data):
    message, _ = train(plan, head, model, data)
    sent = decoded(plan, message)
    assert sent.coordinates.tolist() == shared_mask("bench", 0, D, 30).tolist()
    other = replace(plan, update=replace(plan.update, mask_epoch=1))
    assert (
        decoded(other, train(other, head, model, data)[0]).coordinates.tolist() != sent.coordinates.tolist()
    )


vectors = st.lists(st.integers(-60_000, 60_000), min_size=D, max_size=D).map(
    lambda values: np.array(values, np.int32)
)


@given(
    wanted=vectors,
    norm=st.integers(1, 200_000),
    shift=st.integers(0, 10),
    count=st.integers(1, D),
    mode=st.sampled_from(["mask", "topk"]),
)
def test_what_is_sent_is_within_the_clipping_norm_and_the_coordinates(plan, wanted, norm, shift, count, mode):
    update = replace(plan.update, mode=mode, coordinates=count, clipping_norm=norm, scale_shift=shift)
    sent = trainer.compress(replace(plan, update=update), "dev-1", wanted)
    assert squared_norm(dequantize(sent)) <= norm * norm
    assert len(sent.coordinates) == count
    assert np.all(np.diff(sent.coordinates) > 0)


@given(wanted=vectors.map(lambda vector: vector // 32), shift=st.integers(5, 8))
def test_without_a_bound_what_is_sent_is_within_a_step_of_what_was_wanted(plan, wanted, shift):
    update = replace(plan.update, coordinates=D, scale_shift=shift)
    sent = trainer.compress(replace(plan, update=update), "dev-1", wanted)
    assert np.abs(dequantize(sent) - wanted).max() < 1 << shift


# Top-k with error feedback


@pytest.fixture
def top_k_plan(plan):
    return replace(plan, update=replace(plan.update, mode="topk", coordinates=10, mask_epoch=3))


def test_the_residual_is_what_was_wanted_less_what_was_sent(top_k_plan, head, model, data):
    message, residual = train(top_k_plan, head, model, data)
    sent = decoded(top_k_plan, message)
    dense = replace(top_k_plan, update=replace(top_k_plan.update, coordinates=D, scale_shift=0))
    whole = dequantize(decoded(dense, train(dense, head, model, data)[0]))
    unsaturated = np.abs(whole) < 127
    left = residual.vector + dequantize(sent)
    assert residual.mask_epoch == 3
    assert np.array_equal(left[unsaturated], whole[unsaturated])
    assert set(sent.coordinates) == set(np.argsort(-np.abs(left), kind="stable")[:10])


def test_a_residual_is_added_in_its_own_epoch_and_reset_in_another(top_k_plan, head, model, data):
    held = Residual(mask_epoch=3, vector=np.zeros(D, np.int32))
    held.vector[5] = 20_000
    without, _ = train(top_k_plan, head, model, data)
    with_it, _ = train(top_k_plan, head, model, data, residual=held)
    assert with_it.payload != without.payload
    assert 5 in decoded(top_k_plan, with_it).coordinates
    stale, _ = train(top_k_plan, head, model, data, residual=replace(held, mask_epoch=2))
    assert stale.payload == without.payload


def test_a_residual_of_another_head_is_reset(top_k_plan, head, model, data):
    stray = Residual(mask_epoch=3, vector=np.full(D + 1, 9999, np.int32))
    assert train(top_k_plan, head, model, data, residual=stray)[0] == train(top_k_plan, head, model, data)[0]


def test_a_mask_update_leaves_no_residual_and_takes_up_what_never_left_of_its_epoch(plan, head, model, data):
    held = Residual(mask_epoch=0, vector=np.full(D, 9999, np.int32))
    message, left = train(plan, head, model, data, residual=held)
    assert message != train(plan, head, model, data)[0]
    assert left is None
    of_another = replace(held, mask_epoch=1)
    assert train(plan, head, model, data, residual=of_another) == train(plan, head, model, data)


@pytest.mark.parametrize("clipping_norm", [0, 50])
def test_the_residual_s_norm_is_bounded(top_k_plan, head, model, data, clipping_norm):
    update = replace(top_k_plan.update, clipping_norm=clipping_norm, coordinates=1)
    plan = replace(top_k_plan, update=update)
    held = Residual(mask_epoch=3, vector=np.full(D, 30_000, np.int32))
    _, left = train(plan, head, model, data, residual=held)
    _, alone = train(plan, head, model, data)
    if clipping_norm:
        assert 180**2 < squared_norm(left.vector) <= 200**2  # 4 x 50, toward zero
    else:
        assert squared_norm(left.vector) < squared_norm(held.vector) / 4
        assert squared_norm(left.vector) > squared_norm(alone.vector)


def test_a_device_without_validation_windows_reports_none(plan, head, model, data):
    nothing = Examples(features=np.empty((0, 16), np.int8), labels=np.empty(0, np.int64))
    message, _ = train(plan, head, model, replace(data, validation=nothing))
    assert (message.validation_correct, message.validation_count, message.validation_loss_milli) == (0, 0, 0)
