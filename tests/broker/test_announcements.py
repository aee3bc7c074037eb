"""Signed announcements: only the coordinator's, for this federation, none older than the newest."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.announcements import OVERHEAD_BYTES, Kind, sign, verify
from sanderling.broker.counters import MAX_COUNTER
from sanderling.broker.errors import (
    NotAuthenticError,
    OlderAnnouncementError,
    TooLargeError,
    UnprotectedError,
)
from sanderling.broker.messages import RoundPlan
from sanderling.models.errors import ProtocolError, UsageError
from tests.broker.sealed import SIGNER
from tests.broker.strategies import round_plans

PINNED = SIGNER.public_key()
SIGNED = sign(b"plan", SIGNER, federation="watch", kind=Kind.PLAN, sequence=1000)


@given(plan=round_plans, sequence=st.integers(1, MAX_COUNTER))
def test_a_signed_plan_is_read(plan: RoundPlan, sequence: int) -> None:
    payload = plan.encode()
    data = sign(payload, SIGNER, federation="watch", kind=Kind.PLAN, sequence=sequence)
    assert len(data) - len(payload) == OVERHEAD_BYTES
    found = verify(data, PINNED, federation="watch", kind=Kind.PLAN, newest=sequence)
    assert (found.sequence, found.payload) == (sequence, payload)


def test_the_same_announcement_has_the_same_bytes() -> None:
    assert sign(b"plan", SIGNER, federation="watch", kind=Kind.PLAN, sequence=1000) == SIGNED


@given(bit=st.integers(0, 8 * len(SIGNED) - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    bad = bytearray(SIGNED)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        verify(bytes(bad), PINNED, federation="watch", kind=Kind.PLAN)


@given(data=st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"\x11\0\0\0\0\0\5" + rest))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        verify(data, PINNED, federation="watch", kind=Kind.PLAN)


def test_another_key_federation_or_kind_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for key, federation, kind in [
        (other, "watch", Kind.PLAN),
        (PINNED, "watch2", Kind.PLAN),
        (PINNED, "watch", Kind.MODEL),
    ]:
        with pytest.raises(NotAuthenticError):
            verify(SIGNED, key, federation=federation, kind=kind)


def test_the_newest_may_come_again_and_nothing_before_it() -> None:
    assert verify(SIGNED, PINNED, federation="watch", kind=Kind.PLAN, newest=1000).payload == b"plan"
    with pytest.raises(OlderAnnouncementError):
        verify(SIGNED, PINNED, federation="watch", kind=Kind.PLAN, newest=1001)


def test_plain_and_oversized_announcements_are_named() -> None:
    with pytest.raises(UnprotectedError):
        verify(b"\xac\x00", PINNED, federation="watch", kind=Kind.PLAN)
    with pytest.raises(TooLargeError):
        verify(bytes(RoundPlan.MAX_BYTES + OVERHEAD_BYTES + 1), PINNED, federation="watch", kind=Kind.PLAN)
    with pytest.raises(UsageError):
        sign(b"", SIGNER, federation="watch", kind=Kind.PLAN, sequence=0)
