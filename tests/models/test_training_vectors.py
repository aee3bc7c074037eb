"""The golden vectors that Python and C share: still what the code gives, and what plain integers give."""

import json

import numpy as np
import pytest

from sanderling.models.training import EXP_COARSE, EXP_FINE, LocalTraining
from tests import generate_training_vectors as generator
from tests.models import plain_head
from tests.models.tails import make_head


def committed(name):
    return json.loads((generator.FOLDER / name).read_text())


@pytest.mark.parametrize("name", generator.FILES)
def test_vectors_are_what_the_code_gives(name):
    assert committed(name) == json.loads(json.dumps(generator.FILES[name]()))


def test_tables_are_the_committed_ones():
    """They come from a host's exp: the vectors pin them."""
    content = committed("training_head.json")
    assert content["exp_coarse"] == EXP_COARSE.tolist() == plain_head.COARSE
    assert content["exp_fine"] == EXP_FINE.tolist() == plain_head.FINE


@pytest.mark.slow
@pytest.mark.parametrize("case", committed("training_head.json")["cases"], ids=lambda case: case["name"])
def test_a_thousand_steps_of_plain_integers_give_the_vectors(case):
    head = make_head(
        case["features"],
        case["classes"],
        zero_point=case["input_zero_point"],
        weight_scale=case["weight_scale"],
    )
    training = LocalTraining(
        epochs=case["epochs"],
        batch_size=case["batch_size"],
        learning_rate_q16=case["learning_rate_q16"],
        proximal_mu_q16=case["proximal_mu_q16"],
    )
    plain = plain_head.PlainHead(head, training)
    assert [*plain.exp_scale, plain.exp_reach] == case["exponent_scale"]
    assert [*plain.error_scale, plain.error_limit] == case["error_scale"]
    inputs = np.frombuffer(bytes.fromhex(case["inputs_int8"]), "i1").reshape(-1, head.features)
    theta = np.frombuffer(bytes.fromhex(case["theta_int16"]), "<i2")
    trained = plain.train(theta.tolist(), inputs.tolist(), case["labels"], tuple(case["key"]))
    assert np.array(trained, "<i2").tobytes().hex() == case["trained_int16"]
