"""How the mean change moves the model: server optimisers in fixed point (Reddi et al., arXiv 2003.00295).

State is int64 in 2**-16 of theta's unit, so that any host continues a federation to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sanderling.models.tail import THETA_LIMIT
from sanderling.models.updates import Aggregate, Int32Vector, Int64Vector

FRACTION_BITS = 16
_HALF = 1 << (FRACTION_BITS - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """The model as the coordinator keeps it, and the optimiser's memory; both (d,) in 2**-16 of theta's unit."""

    theta_q16: Int64Vector
    velocity_q16: Int64Vector

    @property
    def theta(self) -> Int32Vector:
        """The model that is published: rounded to nearest, (d,)."""
        return ((self.theta_q16 + _HALF) >> FRACTION_BITS).astype(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """A server optimiser as a value: `apply(state, aggregate) -> state`."""

    name: str
    apply: Callable[[ServerState, Aggregate], ServerState]


def initial_state(theta: Int32Vector) -> ServerState:
    """The state before the first round."""
    theta_q16 = theta.astype(np.int64) << FRACTION_BITS
    return ServerState(theta_q16=theta_q16, velocity_q16=np.zeros_like(theta_q16))


def fedavg(learning_rate: float = 1.0) -> ServerOptimizer:
    """theta + eta * mean (McMahan et al. 2017 for eta = 1)."""
    return _momentum("fedavg", learning_rate, 0.0)


def fedavgm(learning_rate: float = 1.0, momentum: float = 0.9) -> ServerOptimizer:
    """v = beta * v + mean; theta + eta * v (Hsu et al., arXiv 1909.06335).

    Under a shared mask the mean is zero off the mask and v only decays there, as in RoSDHB (arXiv 2508.17129).
    """
    return _momentum("fedavgm", learning_rate, momentum)


def _momentum(name: str, learning_rate: float, momentum: float) -> ServerOptimizer:
    rate_q16, momentum_q16 = round(learning_rate * 65536), round(momentum * 65536)

    def apply(state: ServerState, aggregate: Aggregate) -> ServerState:
        velocity = _scaled(state.velocity_q16, momentum_q16) + aggregate.mean
        limit = THETA_LIMIT << FRACTION_BITS
        theta = np.clip(state.theta_q16 + _scaled(velocity, rate_q16), -limit, limit)
        return ServerState(theta_q16=theta, velocity_q16=velocity)

    return ServerOptimizer(name=name, apply=apply)


def _scaled(value: Int64Vector, factor_q16: int) -> Int64Vector:
    return (value * factor_q16 + _HALF) >> FRACTION_BITS
