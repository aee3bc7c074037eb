"""Messages: one encoding each, the one the CDDL describes, and a named refusal for all else."""

import math
import struct
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pycddl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import messages as m
from sanderling.broker.errors import MessageError, TooLargeError, UnknownVersionError
from sanderling.models.errors import UsageError
from sanderling.models.updates import GlobalModel
from tests.broker import strategies

CDDL = (Path(m.__file__).parent / "messages.cddl").read_text()
RULES = ("round-plan", "model-body", "model-chunk", "update", "status", "evaluation")
SCHEMAS = {rule: pycddl.Schema(f"start = {rule}\n{CDDL}") for rule in RULES}
CLASSES = {
    "round-plan": m.RoundPlan,
    "model-body": m.ModelBody,
    "model-chunk": m.ModelChunk,
    "update": m.UpdateMessage,
    "status": m.StatusMessage,
    "evaluation": m.EvaluationMessage,
}
REFERENCE = m.ModelReference(
    version=1, model_hash=b"h" * 32, body_bytes=910, network_hash=b"n" * 32, network_bytes=12_000
)
PLAN = m.RoundPlan(
    federation="watch",
    run="r1",
    round=3,
    phase="round",
    cohort=("a", "b"),
    deadline_unix_s=1_700_000_000.25,
    arithmetic="exact",
    model=REFERENCE,
    training=m.TrainingPlan(epochs=1, batch_size=16, learning_rate_q16=655, proximal_mu_q16=0, seed=7),
    update=m.UpdatePlan(mode="mask", coordinates=228, mask_epoch=3, clipping_norm=900, scale_shift=4),
    evaluate=(REFERENCE,),
)
UPDATE = m.UpdateMessage(
    run="r1",
    round=3,
    model_hash_prefix=b"h" * 8,
    num_examples=300,
    training_loss_milli=1234,
    validation_correct=45,
    validation_count=50,
    validation_loss_milli=999,
    duration_ms=1500,
    payload=b"payload",
)
STATUS = m.StatusMessage(
    state="online",
    num_examples=300,
    boot=b"12345678",
    backend="integer",
    software="0.1.0",
    arithmetic_drift_lsb=None,
    detail="",
    receive_buffer_bytes=None,
)
EVALUATION = m.EvaluationMessage(run="r1", results=(m.EvaluationResult(b"h" * 32, 4, 5, 678),))
CHUNK = m.ModelChunk(index=1, count=3, piece=b"piece", check=b"12345678")
BODY = m.ModelBody(version=1, network_hash=b"n" * 32, theta=b"\x01\x00\xff\xff")
EXAMPLES = dict(zip(RULES, (PLAN, BODY, CHUNK, UPDATE, STATUS, EVALUATION), strict=True))


# Where pycddl 0.6.4 is laxer than the CDDL: `null` takes arrays, tags and undefined, `bstr .size n` takes
# integers, and the upper bound of an array of arrays is not checked.
PYCDDL_GAPS = {
    ("round-plan", 6),
    ("round-plan", 11),
    ("status", 6),
    ("status", 3),
    ("status", 8),
    ("model-chunk", 4),
    ("update", 3),
    ("evaluation", 2),
}


def cddl_accepts(rule, data):
    try:
        SCHEMAS[rule].validate_cbor(data)
    except pycddl.ValidationError:
        return False
    return True


def packed(rule, items):
    return cbor2.dumps(items if CLASSES[rule].MAP else list(items.values()), canonical=True)


def items_of(rule):
    item = cbor2.loads(EXAMPLES[rule].encode())
    return item if isinstance(item, dict) else dict(enumerate(item))


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None)
@given(st.data())
def test_decode_after_encode_gives_the_message_and_the_cddl_accepts_it(rule, data):
    message = data.draw(strategies.by_rule[rule])
    encoded = message.encode()
    assert CLASSES[rule].decode(encoded) == message
    assert {other for other in RULES if cddl_accepts(other, encoded)} == {rule}


@pytest.mark.parametrize("rule", RULES)
@given(st.data())
def test_whatever_is_accepted_after_damage_has_that_very_encoding(rule, data):
    encoded = bytearray(EXAMPLES[rule].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = CLASSES[rule].decode(bytes(encoded))
    except MessageError:
        return
    assert message.encode() == encoded


@pytest.mark.parametrize("rule", RULES)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_with_a_message_error(rule, data):
    with pytest.raises(MessageError):
        CLASSES[rule].decode(data)


@pytest.mark.parametrize("rule", RULES)
def test_every_truncation_and_a_trailing_byte_are_refused(rule):
    data = EXAMPLES[rule].encode()
    for wrong in [*(data[:n] for n in range(len(data))), data + b"\0"]:
        with pytest.raises(MessageError):
            CLASSES[rule].decode(wrong)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wrong", [-1, 1.0, math.nan, True, 2**64, {}, cbor2.undefined, [[]]], ids=repr)
def test_a_wrong_item_in_any_field_is_refused_here_and_by_the_cddl(rule, wrong):
    for key in list(items_of(rule))[1:]:
        data = packed(rule, items_of(rule) | {key: wrong})
        assert (rule, key) in PYCDDL_GAPS or not cddl_accepts(rule, data)
        with pytest.raises(MessageError, match="expected"):
            CLASSES[rule].decode(data)


@pytest.mark.parametrize("rule", RULES)
def test_a_missing_or_an_extra_field_is_refused_here_and_by_the_cddl(rule):
    items = items_of(rule)
    last = max(items)
    for wrong in [{k: v for k, v in items.items() if k != last}, items | {last + 1: 0}]:
        data = packed(rule, wrong)
        assert not cddl_accepts(rule, data)
        with pytest.raises(MessageError, match="expected the keys"):
            CLASSES[rule].decode(data)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("version", [0, 3, True, 1.0, "1", None])
def test_an_unknown_version_is_refused_by_name(rule, version):
    data = packed(rule, items_of(rule) | {0: version})
    assert not cddl_accepts(rule, data)
    with pytest.raises(
        UnknownVersionError,
        match=f"{CLASSES[rule].NAME}: version .* this build reads {CLASSES[rule].VERSION}",
    ):
        CLASSES[rule].decode(data)


@pytest.mark.parametrize(
    ("rule", "key", "wrong"),
    [
        ("round-plan", 1, "n" * 65),
        ("round-plan", 2, ""),
        ("round-plan", 4, 3),
        ("round-plan", 5, ["a"] * 4097),
        ("round-plan", 6, 2**48 + 1),
        ("round-plan", 8, [1, b"h" * 31, 910, b"n" * 32, 1]),
        ("round-plan", 9, [1, 16, 655, 0]),
        ("round-plan", 9, [0, 16, 655, 0, 1]),
        ("round-plan", 10, [2, 228, 3, 900, 4]),
        ("round-plan", 10, [0, 228, 3, 900, 17]),
        ("round-plan", 11, [[1, b"h" * 32, 910, b"n" * 32, 1]] * 9),
        ("model-body", 2, b"n" * 33),
        ("model-body", 3, b""),
        ("model-chunk", 1, 1024),
        ("model-chunk", 2, 0),
        ("model-chunk", 3, b""),
        ("update", 2, 2**32),
        ("update", 3, b"h" * 7),
        ("update", 4, 0),
        ("status", 1, 2),
        ("status", 3, b"1234567"),
        ("status", 4, "b" * 257),
        ("status", 7, "d" * 801),
        ("evaluation", 2, [[b"h" * 32, 4, 5]]),
        ("evaluation", 2, [[b"h" * 32, 4, 5, 6]] * 9),
    ],
)
def test_a_value_out_of_bounds_is_refused_here_and_by_the_cddl(rule, key, wrong):
    data = packed(rule, items_of(rule) | {key: wrong})
    assert (rule, key) in PYCDDL_GAPS or not cddl_accepts(rule, data)
    with pytest.raises(MessageError, match="expected"):
        CLASSES[rule].decode(data)


def test_what_the_cddl_cannot_say_is_refused_too():
    for rule, key, wrong, match in [
        ("round-plan", 1, "two words", "text like"),
        ("model-body", 3, b"\0\0\0", "whole 16-bit"),
        ("model-chunk", 1, 3, "chunk 3 of 3"),
        ("update", 5 + 1, 51, "51 correct of 50"),
        ("evaluation", 2, [[b"h" * 32, 6, 5, 0]], "6 correct of 5"),
        ("status", 7, "é" * 201, "at most 200 characters"),
    ]:
        with pytest.raises(MessageError, match=match):
            CLASSES[rule].decode(packed(rule, items_of(rule) | {key: wrong}))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("an integer longer than it need be", b"\x8b\x18\x01" + UPDATE.encode()[2:]),
        ("an array of indefinite length", b"\x9f" + UPDATE.encode()[1:] + b"\xff"),
        ("a tag", b"\xd9\xd9\xf7" + UPDATE.encode()),
        ("a map that repeats a key", b"\xaa\x00\x02" + STATUS.encode()[1:]),
        ("a declared length of 2**40", b"\x9b\0\0\1\0\0\0\0\0"),
        ("a nest of arrays", b"\x81" * 500 + b"\0"),
        ("text that is not UTF-8", b"\x8b\x01\x62\xff\xfe" + UPDATE.encode()[5:]),
    ],
)
def test_another_encoding_is_refused(name, data):
    with pytest.raises(MessageError):
        m.StatusMessage.decode(data) if "map" in name else m.UpdateMessage.decode(data)


BIGNUM = b"\xc2\x59\x07\xd0" + 2000 * b"\xff"  # has more digits than Python prints
TAGGED = {
    "an integer too long to print": BIGNUM,
    "a fraction": b"\xd8\x1e\x82\x01\x03",
    "a fraction of integers too long to print": b"\xd8\x1e\x82" + BIGNUM + b"\x03",
    "a decimal": b"\xc4\x82\x1a\x7f\xff\xff\xff\x01",
    "a pattern": b"\xd8\x23\x66(a+)+b",
    "a tag nobody knows": b"\xda\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("tagged", TAGGED.values(), ids=TAGGED)
@pytest.mark.parametrize(("at", "plain"), [(1, b"\x01"), (5, b"\x03")], ids=["version", "round"])
def test_a_tagged_item_is_refused_before_it_is_built(tagged, at, plain):
    data = UPDATE.encode()
    assert data[at : at + 1] == plain
    with pytest.raises(MessageError, match="without tags"):
        m.UpdateMessage.decode(data[:at] + tagged + data[at + 1 :])


@pytest.mark.parametrize("rule", RULES)
def test_size_is_checked_before_parsing(rule):
    with pytest.raises(TooLargeError) as caught:
        CLASSES[rule].decode(b"\xff" * (CLASSES[rule].MAX_BYTES + 1))
    assert caught.value.reason == "too_large"


def test_the_largest_messages_fit_their_own_limit():
    reference = m.ModelReference(
        version=2**32 - 1,
        model_hash=b"h" * 32,
        body_bytes=m.MAX_THETA_BYTES,
        network_hash=b"n" * 32,
        network_bytes=m.MAX_NETWORK_BYTES,
    )
    plan = m.RoundPlan(
        federation="f" * 64,
        run="r" * 64,
        round=2**32 - 1,
        phase="finished",
        cohort=("c" * 64,) * m.MAX_COHORT,
        deadline_unix_s=1e10,
        arithmetic="fast",
        model=reference,
        training=m.TrainingPlan(
            epochs=2**16 - 1,
            batch_size=2**16 - 1,
            learning_rate_q16=2**32 - 1,
            proximal_mu_q16=2**32 - 1,
            seed=2**64 - 1,
        ),
        update=PLAN.update,
        evaluate=(reference,) * m.MAX_EVALUATED_MODELS,
    )
    assert m.RoundPlan.decode(plan.encode()) == plan
    result = m.EvaluationResult(b"h" * 32, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    evaluation = m.EvaluationMessage(run="r" * 64, results=(result,) * m.MAX_EVALUATED_MODELS)
    assert m.EvaluationMessage.decode(evaluation.encode()) == evaluation
    status = m.StatusMessage(
        state="offline",
        num_examples=2**32 - 1,
        boot=b"12345678",
        backend="🐦" * 64,
        software="🐦" * 64,
        arithmetic_drift_lsb=65535,
        detail="🐦" * 200,
        receive_buffer_bytes=2**32 - 1,
    )
    assert m.StatusMessage.decode(status.encode()) == status
    body = m.ModelBody(version=2**32 - 1, network_hash=b"n" * 32, theta=bytes(m.MAX_THETA_BYTES))
    assert m.ModelBody.decode(body.encode()) == body


def test_an_update_costs_at_most_forty_bytes_over_its_payload():
    update = m.UpdateMessage(
        run="8letters",
        round=20,
        model_hash_prefix=b"h" * 8,
        num_examples=500,
        training_loss_milli=1234,
        validation_correct=45,
        validation_count=60,
        validation_loss_milli=999,
        duration_ms=12_000,
        payload=bytes(200),
    )
    assert len(update.encode()) - 200 <= 40


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (lambda: replace(UPDATE, num_examples=0), "num_examples: expected"),
        (lambda: replace(UPDATE, validation_correct=51), "51 correct of 50"),
        (lambda: replace(STATUS, state="asleep"), "online or offline"),
        (lambda: replace(STATUS, num_examples=np.int64(3)), "int64"),
        (lambda: replace(EVALUATION, results=((b"h", 1, 1, 1),)), "32 bytes"),
        (lambda: replace(PLAN, federation="two words"), "federation"),
        (lambda: replace(PLAN, deadline_unix_s=math.nan), "finite"),
        (lambda: replace(PLAN, deadline_unix_s=-1.0), "deadline"),
    ],
)
def test_a_field_that_may_not_be_sent_is_our_own_usage_error(message, match):
    with pytest.raises(UsageError, match=match):
        message().encode()


def test_a_deadline_is_kept_to_the_millisecond_so_that_it_survives_the_wire():
    plan = replace(PLAN, deadline_unix_s=1_700_000_000.123456)
    assert plan.deadline_unix_s == 1_700_000_000.123
    assert m.RoundPlan.decode(plan.encode()) == plan


class TestModelBody:
    model = GlobalModel(version=4, backbone_hash=b"n" * 32, theta=np.array([1, -1, 32767, -32768], np.int32))

    def test_theta_travels_as_little_endian_int16(self):
        body = m.ModelBody.of(self.model)
        assert body.theta == struct.pack("<4h", 1, -1, 32767, -32768)
        back = m.ModelBody.decode(body.encode()).to_model()
        assert back.theta.dtype == np.int32
        assert (back.version, back.model_hash) == (4, self.model.model_hash)

    def test_theta_outside_int16_is_not_sent(self):
        model = GlobalModel(version=4, backbone_hash=b"n" * 32, theta=np.array([32768], np.int32))
        with pytest.raises(UsageError, match="int16"):
            m.ModelBody.of(model)
