"""The budget on disk: a kill between any two statements never spends more, nor makes a second noise."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from sanderling.coordinator.privacy.accounting import Charge, Sampling, epsilon
from sanderling.coordinator.privacy.budget import Budget, BudgetSpentError
from sanderling.coordinator.privacy.budget_store import BudgetStore, create_tables
from sanderling.coordinator.privacy.noise import NoiseSize, draw_key, noised
from sanderling.models.errors import UnsoundError
from sanderling.models.updates import Aggregate

DELTA = 1e-5
CHARGE = Charge(noise_multiplier=2.0)
BUDGET = Budget(epsilon=epsilon({CHARGE: 2}, DELTA), delta=DELTA)  # for two rounds
SIZE = NoiseSize(coordinates=8, variance=10**6)
_OPEN: list[sqlite3.Connection] = []


def connect(directory: Path, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    database = sqlite3.connect(directory / "ledger.sqlite", isolation_level=None, factory=factory)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    _OPEN.append(database)
    return database


@pytest.fixture(autouse=True)
def _closed():
    yield
    while _OPEN:
        _OPEN.pop().close()


def run(store: BudgetStore, published: list[tuple[int, bytes]]) -> None:
    """A coordinator's rounds, as many as the budget bears: begun or resumed, published last."""
    aggregate = Aggregate(mean=np.zeros(8, dtype=np.int64), total_weight=1, participants=("a", "b"))
    for number in (1, 2, 3):
        try:
            store.reserve(number, CHARGE, ["a", "b"])
        except BudgetSpentError:
            return
        frozen = store.freeze(number, bytes([number] * 32), SIZE, ["a", "b"], draw_key)
        model = noised(aggregate, np.arange(8, dtype=np.int32), frozen).mean.tobytes()
        store.release(number, hashlib.blake2b(model).digest())
        published.append((number, model))


class Snapshots(sqlite3.Connection):
    """Copies the files before each statement: what a kill there would leave."""

    copies: list[tuple[Path, int]]
    published: list[tuple[int, bytes]]
    directory: Path

    def execute(self, *arguments: object) -> sqlite3.Cursor:
        if hasattr(self, "copies"):
            copy = self.directory.parent / f"kill{len(self.copies)}"
            shutil.copytree(self.directory, copy, ignore=shutil.ignore_patterns("*-shm"))
            self.copies.append((copy, len(self.published)))
        return super().execute(*arguments)


def test_a_kill_between_any_two_statements_resumes_to_the_same_noise(tmp_path):
    directory = tmp_path / "live"
    directory.mkdir()
    database = connect(directory, Snapshots)
    database.directory, database.published, database.copies = directory, [], []
    run(BudgetStore(database, BUDGET), database.published)
    assert [number for number, _ in database.published] == [1, 2]
    assert len(database.copies) > 30
    database.close()
    for copy, seen in database.copies:
        resumed = connect(copy)
        published = database.published[:seen]  # what was on the broker when it was killed
        store = BudgetStore(resumed, BUDGET)
        assert epsilon({CHARGE: len(store.state().entries)}, DELTA) <= BUDGET.epsilon
        assert len(store.state().entries) >= seen  # all that was published had been reserved
        run(store, published)
        assert {number for number, _ in published} == {1, 2}
        assert len(set(published)) == 2  # one model a round, whatever was published before
        resumed.close()


def test_a_store_that_forgets_its_key_would_be_seen(tmp_path):
    store = BudgetStore(connect(tmp_path), BUDGET)
    published: list[tuple[int, bytes]] = []
    run(store, published)
    store._database.execute(
        "UPDATE privacy_round SET accepted_hash = NULL, secret = NULL, size = NULL, model_hash = NULL"
    )
    run(store, published)
    assert len(set(published)) == 4


def test_two_coordinators_cannot_spend_the_same_budget(tmp_path):
    first, second = (BudgetStore(connect(tmp_path), BUDGET) for _ in range(2))
    first.reserve(1, CHARGE, ["a"])
    second.reserve(2, CHARGE, ["a"])
    for store in (first, second):
        with pytest.raises(BudgetSpentError):
            store.reserve(3, CHARGE, ["a"])
    assert first.state() == second.state()


def test_an_open_transaction_carries_it_and_takes_it_back(tmp_path):
    database = connect(tmp_path)
    store = BudgetStore(database, BUDGET)
    database.execute("BEGIN IMMEDIATE")
    store.reserve(1, CHARGE, ["a"])
    database.execute("ROLLBACK")
    assert store.state().entries == {}


def test_a_refused_round_leaves_nothing_behind(tmp_path):
    database = connect(tmp_path)
    store = BudgetStore(database, BUDGET)
    with pytest.raises(UnsoundError, match="not private"):
        store.reserve(1, Charge(noise_multiplier=0.0), ["a"])
    with pytest.raises(BudgetSpentError):
        store.reserve(1, Charge(noise_multiplier=0.01), ["a"])
    assert not database.in_transaction
    assert store.state().entries == {}


def test_state_survives_in_every_detail(tmp_path, dp):
    sampling = Sampling(probability=0.1, population=100, cap=20)
    charge = Charge(noise_multiplier=30.0, sampling=sampling, divergence=1e-20)
    size = NoiseSize(coordinates=8, variance=10**30, bit_variance=7)
    store = BudgetStore(connect(tmp_path), BUDGET)
    store.reserve(1, charge, ["b", "a"])
    store.freeze(1, bytes(32), size, ["a"], draw_key)
    store.release(1, b"model")
    entries = BudgetStore(connect(tmp_path), BUDGET).state().entries
    assert entries == store.state().entries
    assert (entries[1].charge, entries[1].devices) == (charge, {"a", "b"})
    assert (entries[1].frozen.size, entries[1].model_hash) == (size, b"model")
    assert entries[1].frozen.key.private


def test_an_abandoned_round_leaves_the_file(tmp_path):
    store = BudgetStore(connect(tmp_path), BUDGET)
    store.reserve(1, CHARGE, ["a"])
    store.cancel(1)
    assert store.state().entries == {}


def test_erased_keys_are_gone(tmp_path):
    store = BudgetStore(connect(tmp_path), BUDGET)
    run(store, [])
    store.forget_keys()
    with pytest.raises(UnsoundError, match="erased"):
        run(store, [])
    assert [entry.frozen.key.secret for entry in store.state().entries.values()] == [b"", b""]


def test_a_promise_is_not_changed_afterwards(tmp_path):
    BudgetStore(connect(tmp_path), BUDGET)
    with pytest.raises(UnsoundError, match="a promise stands"):
        BudgetStore(connect(tmp_path), Budget(epsilon=8.0, delta=DELTA))
    create_tables(connect(tmp_path))  # again: nothing happens


def test_a_ledger_that_is_not_durable_is_refused(tmp_path):
    database = connect(tmp_path)
    database.execute("PRAGMA synchronous=NORMAL")
    with pytest.raises(ValueError, match="synchronous=FULL"):
        BudgetStore(database, BUDGET)
