"""A data set: examples, labels, the client each belongs to, and the part of the evaluation it serves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import DatasetError

TRAIN: Final = 0
VALIDATION: Final = 1  # early stopping and the choice of settings
TEST: Final = 2  # used once, for the final table
Split = Literal[0, 1, 2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """n examples of a federation's clients; raises DatasetError on construction when the parts disagree."""

    name: str
    examples: NDArray[np.float32]  # windows (n, time, channels) or images (n, height, width, channels)
    labels: NDArray[np.int64]  # (n,), 0..len(class_names)-1
    clients: NDArray[np.int32]  # (n,), index into client_names
    client_names: tuple[str, ...]
    split: NDArray[np.int8]  # (n,), TRAIN, VALIDATION or TEST
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.examples)
        for part in ("labels", "clients", "split"):
            if len(getattr(self, part)) != count:
                raise DatasetError(
                    f"data set {self.name!r}: {count} examples but {len(getattr(self, part))} {part}; "
                    "give one for each example"
                )
        if count == 0:
            raise DatasetError(f"data set {self.name!r}: expected at least one example, came none")
        _check_range(self.name, "label", self.labels, len(self.class_names))
        _check_range(self.name, "client", self.clients, len(self.client_names))
        _check_range(self.name, "split", self.split, 3)

    def __len__(self) -> int:
        return len(self.examples)

    def where(self, mask: NDArray[np.bool_]) -> Dataset:
        """The examples where `mask` (n,) is true; the names of clients and classes stay."""
        return replace(
            self,
            examples=self.examples[mask],
            labels=self.labels[mask],
            clients=self.clients[mask],
            split=self.split[mask],
        )

    def part(self, split: Split) -> Dataset:
        """The examples of one part: TRAIN, VALIDATION or TEST."""
        return self.where(self.split == split)

    def for_client(self, client: str) -> Dataset:
        """One client's examples, all parts, in their order. DatasetError when there is no such client."""
        return self.for_clients((client,))

    def for_clients(self, clients: tuple[str, ...]) -> Dataset:
        """Several clients' examples, in the order of the data set."""
        for client in clients:
            if client not in self.client_names:
                raise DatasetError(
                    f"data set {self.name!r} has no client {client!r}; it has {', '.join(self.client_names)}"
                )
        return self.where(np.isin(self.clients, [self.client_names.index(client) for client in clients]))

    @property
    def content_hash(self) -> bytes:
        """BLAKE2b-256 over examples, labels, clients, split, and client and class names. 32 bytes."""
        digest = hashlib.blake2b(b"sanderling dataset 1", digest_size=32)
        header = [self.examples.shape, self.client_names, self.class_names]
        digest.update(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        digest.update(np.ascontiguousarray(self.examples, dtype="<f4").data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.clients, dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.split, dtype="i1").data)
        return digest.digest()


def _check_range(name: str, what: str, values: NDArray[Any], count: int) -> None:
    if outside := np.flatnonzero((values < 0) | (values >= count)).tolist():
        raise DatasetError(
            f"data set {name!r}: {what} of example {outside[0]} is {int(values[outside[0]])}, "
            f"expected 0 to {count - 1}"
        )
