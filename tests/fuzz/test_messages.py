"""A small share of tests/fuzz/messages.py: what it counts, that it finds a fault, and that memory stays flat."""

import random
import tracemalloc

import pytest

from tests.fuzz import messages

REASONS = {
    "accepted",
    "codec",
    "duplicate",
    "malformed",
    "not_in_cohort",
    "too_large",
    "unknown_device",
    "unknown_version",
    "wrong_model",
    "wrong_round",
    "wrong_run",
}


@pytest.fixture(scope="module")
def result():
    return messages.fuzz(8_000, seed=3)


def test_mutated_messages_are_refused_by_a_reason_or_taken(result):
    assert result["faults"] == []
    assert set(result["reasons"]) >= REASONS
    assert sum(result["reasons"].values()) == 8_000


def test_every_seed_is_a_good_message(result):
    for counts in result["by_message"].values():
        assert counts["accepted"] > 0 and len(counts) > 1


def test_memory_is_flat(result):
    """What stays allocated between two messages, once caches are warm, whatever came in between."""
    rng, good = random.Random(4), messages.seeds()
    tracemalloc.start()
    try:
        messages.run_one(rng, good)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            messages.run_one(rng, good)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * 1024


def test_another_exception_is_a_fault(monkeypatch):
    broken = messages.Seed(name="broken", take=lambda topic, data: 1 / 0, topic="", data=b"\x01", cbor=False)
    monkeypatch.setattr(messages, "seeds", lambda: [broken])
    result = messages.fuzz(3, seed=1)
    assert result["fault_count"] == 3 and "ZeroDivisionError" in result["faults"][0]
