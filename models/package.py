"""A network with what a device needs to feed it and to name its answers: what the network's topic carries.

CBOR, an array: version, network file, mean and standard deviation of each channel as little-endian float32, names
of the classes. One encoding a package. The content hash of the network alone names it; docs/wire.md, "Network".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np

from sanderling.models import network_file, plain_cbor
from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.network import Network
from sanderling.models.preprocessing import Preprocessing

VERSION = 1
LIMIT_BYTES = 16 << 20
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelPackage:
    """A network, its input's preprocessing, and a name for each value of its output, or none at all.

    ModelFormatError on construction when there are more or fewer names.
    """

    network: Network
    preprocessing: Preprocessing
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        classes = self.network.tensors[self.network.outputs[0]].shape[-1]
        if self.class_names and len(self.class_names) != classes:
            raise ModelFormatError(
                f"network {self.network.name!r} tells {classes} classes apart, {len(self.class_names)} have a name"
            )

    def to_bytes(self) -> bytes:
        """The package's one encoding."""
        return cbor2.dumps(
            [
                VERSION,
                network_file.to_bytes(self.network),
                np.asarray(self.preprocessing.mean, "<f4").tobytes(),
                np.asarray(self.preprocessing.std, "<f4").tobytes(),
                list(self.class_names),
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelPackage:
        """The package in `data`, whatever the bytes are: ModelFormatError for all that `to_bytes` does not write."""
        version, *fields = _items(data)
        if version != VERSION:
            raise ModelFormatError(
                f"model package of version {version!r:.20}, this build reads version {VERSION}"
            )
        try:
            network, mean, std, names = fields
            package = cls(
                network=network_file.from_bytes(_bytes(network)),
                preprocessing=Preprocessing(mean=_floats(mean), std=_floats(std)),
                class_names=tuple(_name(name) for name in names),
            )
        except (UsageError, TypeError, ValueError) as problem:
            raise ModelFormatError(f"model package: {problem!s:.200}") from None
        if package.to_bytes() != data:
            raise ModelFormatError("model package: expected its one encoding and nothing after it")
        return package


def _items(data: bytes) -> list[Any]:
    if len(data) > LIMIT_BYTES:
        raise ModelFormatError(f"model package of {len(data)} bytes, at most {LIMIT_BYTES} are read")
    try:
        items = plain_cbor.loads(data, depth=3)
    except ValueError as problem:
        raise ModelFormatError(f"model package: {problem}") from None
    if not isinstance(items, list) or not items:
        raise ModelFormatError("model package: expected an array")
    return items


def _bytes(item: object) -> bytes:
    if not isinstance(item, bytes):
        raise ValueError(f"expected bytes, came {type(item).__name__}")
    return item


def _floats(item: object) -> tuple[float, ...]:
    return tuple(np.frombuffer(_bytes(item), "<f4").tolist())


def _name(item: object) -> str:
    if not isinstance(item, str) or len(item) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"expected a class name of at most {MAX_NAME_CHARACTERS} characters, came {item!r:.40}"
        )
    return item
