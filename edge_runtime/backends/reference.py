"""Our integer runtime as a backend: the bytes that every exact device gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sanderling.models import inference
from sanderling.models.network import Network
from sanderling.models.tail import DenseHead

CHUNK_WINDOWS = 32  # at once, which bounds the memory


class ReferenceBackend:
    name = "reference"
    exact = True

    def __init__(self, network: Network, head: DenseHead) -> None:
        self._network, self._head = network, head

    def features(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        out = np.empty((len(inputs), self._head.features), np.int8)
        for first in range(0, len(inputs), CHUNK_WINDOWS):
            part = slice(first, first + CHUNK_WINDOWS)
            out[part] = inference.features(self._network, inputs[part], self._head.layer)
        return out
