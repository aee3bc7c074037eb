"""How the examples of one data set are dealt out to clients that have none of their own.

Each function returns the client (n,) int32 of each example, 0..clients-1; the generator decides everything.
Dirichlet: Hsu et al. 2019 (https://arxiv.org/abs/1909.06335). Class skew: McMahan et al. 2017, section 3. The
taxonomy of skews: Li et al. 2022 (https://arxiv.org/abs/2102.02079).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import UsageError

Clients = NDArray[np.int32]


def iid(count: int, clients: int, rng: np.random.Generator) -> Clients:
    """Shuffled, as evenly as can be."""
    _require_enough(count, clients)
    return rng.permutation(np.arange(count) % clients).astype(np.int32)


def quantity_skew(count: int, clients: int, alpha: float, rng: np.random.Generator) -> Clients:
    """Sizes drawn from Dirichlet(alpha), classes alike; every client keeps at least one example."""
    _require_enough(count, clients)
    shares = rng.dirichlet(np.full(clients, _positive(alpha)))
    sizes = 1 + _apportion(count - clients, shares)
    return rng.permutation(np.repeat(np.arange(clients), sizes)).astype(np.int32)


def dirichlet(labels: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator) -> Clients:
    """Each class is dealt out in shares from Dirichlet(alpha); a small alpha gives clients of few classes.

    A client left with nothing receives one example from the largest client.
    """
    _require_enough(len(labels), clients)
    owner = np.zeros(len(labels), np.int32)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, _positive(alpha)))
        owner[members] = np.repeat(np.arange(clients), _apportion(len(members), shares))
    return _leave_none_empty(owner, clients)


def class_skew(labels: NDArray[np.int64], clients: int, classes: int, rng: np.random.Generator) -> Clients:
    """Every client holds `classes` classes (one that nobody drew goes to one client more), shared evenly.

    Each client in turn takes the classes with the fewest holders, so that all have about as many.
    """
    _require_enough(len(labels), clients)
    present = np.unique(labels)
    if not 1 <= classes <= len(present):
        raise UsageError(f"classes a client: expected 1 to {len(present)}, came {classes}")
    holders: dict[int, list[int]] = {int(label): [] for label in present}
    for client in rng.permutation(clients):
        order = rng.permutation(present)
        fewest = sorted(order, key=lambda label: len(holders[int(label)]))
        for label in fewest[:classes]:
            holders[int(label)].append(int(client))
    owner = np.zeros(len(labels), np.int32)
    for label, having in holders.items():
        members = rng.permutation(np.flatnonzero(labels == label))
        having = having or [int(rng.integers(clients))]
        owner[members] = np.resize(having, len(members))
    return _leave_none_empty(owner, clients)


def _apportion(count: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers that sum to `count`, in proportion to `shares` (largest remainders)."""
    exact = shares * count
    sizes: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    remainder_first = np.argsort(sizes - exact, kind="stable")
    sizes[remainder_first[: count - int(sizes.sum())]] += 1
    return sizes


def _leave_none_empty(owner: Clients, clients: int) -> Clients:
    sizes = np.bincount(owner, minlength=clients)
    for client in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        owner[np.flatnonzero(owner == largest)[0]] = client
        sizes[largest] -= 1
        sizes[client] += 1
    return owner


def _positive(alpha: float) -> float:
    if not 0 < alpha < float("inf"):
        raise UsageError(f"alpha: expected a positive number, came {alpha}")
    return alpha


def _require_enough(count: int, clients: int) -> None:
    if not 1 <= clients <= count:
        raise UsageError(f"clients: expected 1 to {count}, the number of examples, came {clients}")
