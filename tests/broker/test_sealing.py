"""The seal: what was sealed opens, and nothing else does."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker import sealing
from sanderling.broker.counters import MAX_COUNTER, ReplayWindow
from sanderling.broker.errors import (
    MessageError,
    NotAuthenticError,
    OutsideWindowError,
    ReplayedError,
    TooLargeError,
    UnknownKeyError,
    UnknownVersionError,
    UnprotectedError,
    WrongRoundError,
)
from sanderling.broker.keys import coordinator_pair_key, device_pair_key, epoch_key
from sanderling.broker.messages import UpdateMessage
from sanderling.broker.sealing import Kind, Subject, read_header, seal, unseal
from sanderling.models.errors import ProtocolError, UsageError
from tests.broker.sealed import COORDINATOR, DEVICE, KEY, OTHER_DEVICE, SUBJECT, a_key
from tests.broker.strategies import hashes, names, u32

counters = st.integers(1, MAX_COUNTER) | st.integers(1, 300)
subjects = st.builds(
    Subject, kind=st.sampled_from(Kind), round=u32, model_hash=hashes, codec=st.integers(0, 15)
)
keys = st.builds(
    epoch_key,
    st.binary(min_size=32, max_size=32),
    federation=names,
    device=names,
    run=names,
    epoch=u32,
)
FRESH = ReplayWindow()


@given(message=st.binary(max_size=400), key=keys, subject=subjects, counter=counters)
def test_what_was_sealed_opens(message: bytes, key: Any, subject: Subject, counter: int) -> None:
    data = seal(message, key, subject, counter)
    assert len(data) - len(message) <= sealing.MAX_OVERHEAD_BYTES <= 48
    assert read_header(data, key.device).round == subject.round
    assert unseal(data, key, subject, FRESH) == (message, ReplayWindow(highest=counter, seen=1))


def test_both_ends_make_the_same_keys_and_each_device_its_own() -> None:
    pair = device_pair_key(DEVICE, COORDINATOR.public_key())
    assert pair == coordinator_pair_key(COORDINATOR, DEVICE.public_key())
    assert pair != coordinator_pair_key(COORDINATOR, OTHER_DEVICE.public_key())


def test_a_public_key_that_anyone_can_agree_with_is_refused() -> None:
    with pytest.raises(UsageError, match="low order"):
        coordinator_pair_key(COORDINATOR, X25519PublicKey.from_public_bytes(bytes(32)))


def test_secrets_stay_out_of_the_representation() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
    assert repr(KEY.base_iv) not in repr(KEY)


@given(message=st.binary(max_size=60), counter=counters, data=st.data())
def test_a_flipped_bit_is_refused(message: bytes, counter: int, data: st.DataObject) -> None:
    good = seal(message, KEY, SUBJECT, counter)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        unseal(bytes(bad), KEY, SUBJECT, FRESH)


def test_each_flipped_bit_has_its_reason() -> None:
    good = seal(b"update", KEY, SUBJECT, 300)
    reasons = []
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError) as caught:
            unseal(bytes(bad), KEY, SUBJECT, FRESH)
        reasons.append(caught.value.reason)
    assert set(reasons[:8]) == {"unknown_version", "unprotected"}
    assert set(reasons[8:24]) <= {"not_authentic", "wrong_round", "malformed", "unknown_key"}
    assert set(reasons[24:32]) == {"wrong_round"}
    assert set(reasons[32:64]) == {"unknown_key"}
    assert set(reasons[64:]) == {"not_authentic"}


@given(
    data=st.binary(max_size=100) | st.binary(max_size=60).map(lambda rest: b"\x10\x01\x03" + KEY.tag + rest)
)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unseal(data, KEY, SUBJECT, FRESH)


OTHER_KEYS = {
    "device": a_key(OTHER_DEVICE),
    "device's name": a_key(name="pi-4"),
    "run": a_key(run="k3v9q2ay"),
    "epoch": a_key(epoch=2),
    "federation": epoch_key(
        device_pair_key(DEVICE, COORDINATOR.public_key()),
        federation="watch2",
        device="pi-3",
        run="k3v9q2ax",
        epoch=1,
    ),
}


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_a_message_swapped_to_another_identity_run_or_epoch_is_refused(name: str) -> None:
    with pytest.raises(UnknownKeyError):
        unseal(seal(b"update", KEY, SUBJECT, 1), OTHER_KEYS[name], SUBJECT, FRESH)


@pytest.mark.parametrize(
    "change",
    [{"model_hash": bytes(32)}, {"kind": Kind.EVALUATION}, {"codec": 2}],
    ids=lambda c: next(iter(c)),
)
def test_a_message_about_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticError):
        unseal(seal(b"update", KEY, SUBJECT, 1), KEY, replace(SUBJECT, **change), FRESH)


@pytest.mark.parametrize("field", ["federation", "device", "run", "epoch"])
def test_what_the_key_is_for_is_in_the_associated_data_too(field: str) -> None:
    # The same secret for something else: only the associated data tells.
    other = replace(KEY, **{field: 7 if field == "epoch" else "other"})
    with pytest.raises(NotAuthenticError):
        unseal(seal(b"update", KEY, SUBJECT, 1), other, SUBJECT, FRESH)


def test_a_message_of_another_round_says_so() -> None:
    with pytest.raises(WrongRoundError):
        unseal(seal(b"update", KEY, SUBJECT, 1), KEY, replace(SUBJECT, round=4), FRESH)


def test_a_changed_claim_of_the_round_does_not_help() -> None:
    data = bytearray(seal(b"update", KEY, SUBJECT, 1))
    data[2] = 4
    with pytest.raises(NotAuthenticError):
        unseal(bytes(data), KEY, replace(SUBJECT, round=4), FRESH)


def test_a_replay_is_refused_and_a_message_that_overtook_another_is_not() -> None:
    first, second = (seal(b"update", KEY, SUBJECT, counter) for counter in (1, 2))
    _, window = unseal(second, KEY, SUBJECT, FRESH)
    _, window = unseal(first, KEY, SUBJECT, window)
    for data in (first, second):
        with pytest.raises(ReplayedError):
            unseal(data, KEY, SUBJECT, window)


def test_a_message_too_late_to_judge_is_refused() -> None:
    _, window = unseal(seal(b"update", KEY, SUBJECT, 65), KEY, SUBJECT, FRESH)
    assert unseal(seal(b"update", KEY, SUBJECT, 2), KEY, SUBJECT, window)[0] == b"update"
    with pytest.raises(OutsideWindowError):
        unseal(seal(b"update", KEY, SUBJECT, 1), KEY, SUBJECT, window)


def test_a_refused_message_leaves_the_window_so_the_good_one_still_opens() -> None:
    good = seal(b"update", KEY, SUBJECT, 1)
    with pytest.raises(NotAuthenticError):
        unseal(good[:-1] + bytes([good[-1] ^ 1]), KEY, SUBJECT, FRESH)
    assert unseal(good, KEY, SUBJECT, FRESH)[0] == b"update"


def test_a_plain_update_where_a_sealed_one_is_asked_for_is_named() -> None:
    plain = UpdateMessage(
        run="a",
        round=1,
        model_hash_prefix=bytes(8),
        num_examples=1,
        training_loss_milli=0,
        validation_correct=0,
        validation_count=0,
        validation_loss_milli=0,
        duration_ms=0,
        payload=b"",
    ).encode()
    with pytest.raises(UnprotectedError):
        unseal(plain, KEY, SUBJECT, FRESH)


def test_forms_that_are_not_the_one_are_refused() -> None:
    good = seal(b"update", KEY, SUBJECT, 1)
    assert good[:3] == b"\x10\x01\x03"
    for bad in (good[:22], b"\x10\x81\x00" + good[2:], b"\x10\x00" + good[2:], b"\x10" + b"\xff" * 9):
        with pytest.raises(MessageError):
            unseal(bad, KEY, SUBJECT, FRESH)
    with pytest.raises(UnknownVersionError):
        unseal(b"\x20" + good[1:], KEY, SUBJECT, FRESH)
    with pytest.raises(TooLargeError):
        unseal(bytes(UpdateMessage.MAX_BYTES + 34), KEY, SUBJECT, FRESH)
    with pytest.raises(UsageError):
        seal(b"update", KEY, SUBJECT, 0)
