"""What hostile devices send, knowing every honest update: each attack gives f rows of int8 steps, as the wire carries.

Sign flip and Gaussian (Blanchard et al. 2017), "a little is enough" (Baruch et al. 2019), inner product (Xie et al.
2020), mimic (Karimireddy et al. 2022), boosted model replacement (Bagdasaryan et al. 2020).
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
# (honest updates (h, k), number of hostile ones f, random generator) -> (f, k)
Attack = Callable[[Rows, int, np.random.Generator], Rows]


def sign_flip(factor: float = 1.0) -> Attack:
    """The honest mean, reversed."""
    return lambda honest, hostile, rng: _sent(-factor * honest.mean(axis=0), hostile)


def inner_product(epsilon: float) -> Attack:
    """-epsilon times the honest mean: small enough to hide, of a negative inner product with it ("fall of empires")."""
    return lambda honest, hostile, rng: _sent(-epsilon * honest.mean(axis=0), hostile)


def little_is_enough(z: float | None = None) -> Attack:
    """The honest mean less z deviations of each coordinate; by default the largest z that a majority hides."""

    def attack(honest: Rows, hostile: int, rng: np.random.Generator) -> Rows:
        n = len(honest) + hostile
        supporters = n // 2 + 1 - hostile
        quantile = NormalDist().inv_cdf((n - hostile - supporters) / (n - hostile)) if z is None else z
        return _sent(honest.mean(axis=0) - quantile * honest.std(axis=0, ddof=1), hostile)

    return attack


def mimic(victim: int = 0) -> Attack:
    """One honest device's update, again and again: weight where the data are skewed."""
    return lambda honest, hostile, rng: _sent(honest[victim].astype(float), hostile)


def gaussian(deviation: float) -> Attack:
    """Noise, another for each device."""
    return lambda honest, hostile, rng: _clipped(rng.normal(0, deviation, (hostile, honest.shape[1])))


def boosted(factor: float = 1e6) -> Attack:
    """One random direction, scaled up as far as the wire lets it: model replacement by colluders."""

    def attack(honest: Rows, hostile: int, rng: np.random.Generator) -> Rows:
        return _sent(factor * rng.normal(0, 1, honest.shape[1]), hostile)

    return attack


def zeros() -> Attack:
    """Nothing at all: what Krum prefers among unaligned sparse updates."""
    return lambda honest, hostile, rng: _sent(np.zeros(honest.shape[1]), hostile)


def _sent(row: NDArray[np.float64], hostile: int) -> Rows:
    return np.repeat(_clipped(row)[None, :], hostile, axis=0)


def _clipped(values: NDArray[np.float64]) -> Rows:
    return np.clip(np.rint(values), -127, 127).astype(np.int64)
