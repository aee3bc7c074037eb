"""Where a device's examples come from: one client of a data set, or what a user's own files hold for it.

What a sensor could not have meant is dropped and counted: values that are not finite, or out of a given range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.datasets import TEST, TRAIN, VALIDATION, Dataset, Split, load
from sanderling.models.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """The data set `name` with its `options` (models/datasets), and the `client` of it that this device is."""

    name: str
    client: str
    options: Mapping[str, Any] = field(default_factory=dict)
    low: float = -np.inf  # a reading outside of low..high is none
    high: float = np.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"source {self.name!r}: expected low < high, came {self.low} and {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Raw windows (n, ...) float32 and their labels (n,)."""

    examples: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A device's windows in three parts, and how many were dropped for which fault."""

    class_names: tuple[str, ...]
    train: Windows
    validation: Windows
    test: Windows
    not_finite: int = 0
    out_of_range: int = 0


def read_source(settings: SourceSettings) -> Source:
    """DatasetError, MissingError or UsageError when the data cannot be had."""
    return client_source(load(settings.name, **settings.options), settings)


def client_source(dataset: Dataset, settings: SourceSettings) -> Source:
    """The client's windows in the order of the data set."""
    own = dataset.for_client(settings.client)
    axes = tuple(range(1, own.examples.ndim))
    finite = np.isfinite(own.examples).all(axis=axes)
    within = ((own.examples >= settings.low) & (own.examples <= settings.high)).all(axis=axes)

    def part(split: Split) -> Windows:
        chosen = finite & within & (own.split == split)
        return Windows(examples=own.examples[chosen], labels=own.labels[chosen])

    return Source(
        class_names=dataset.class_names,
        train=part(TRAIN),
        validation=part(VALIDATION),
        test=part(TEST),
        not_finite=int((~finite).sum()),
        out_of_range=int((finite & ~within).sum()),
    )
