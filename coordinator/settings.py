"""What the coordinator is told to do: typed values, made once from federation.toml by the front door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sanderling.broker.messages import TrainingPlan
from sanderling.coordinator.server_optimizers import ServerOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """When a round ends. In lockstep mode only `count` and `patience` matter."""

    mode: Literal["deadline", "lockstep"]
    count: int
    deadline_s: float
    quorum: int
    patience: int  # 0: run every round and keep the last model


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSettings:
    """How many devices a round asks: cohort / (1 - expected_dropout), or everyone there when cohort is 0."""

    cohort: int
    expected_dropout: float
    minimum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """How devices compress their change."""

    mode: Literal["mask", "topk"]
    density: float
    mask_rounds: int
    scale_shift: int
    clipping_norm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """One federation. `devices` empty admits any device; lockstep mode needs it named."""

    federation: str
    devices: tuple[str, ...]
    arithmetic: Literal["exact", "fast"]
    rounds: RoundSettings
    selection: SelectionSettings
    training: TrainingPlan
    update: UpdateSettings
    optimizer: ServerOptimizer
    max_examples: int
    adaptive: bool = (
        False  # coordinator/pacing.py sets each round's cohort, deadline, density and scale shift
    )
