"""The C runtime as a backend: the reference's bytes, by the kernels that microcontrollers run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sanderling.models import inference
from sanderling.models.errors import SanderlingError
from sanderling.models.native import NativeNetwork, open_default
from sanderling.models.network import Network
from sanderling.models.tail import DenseHead

CHECKED_WINDOWS = 4


class NativeBackend:
    """MissingError without a library that can be opened; ModelFormatError for what no kernel computes.

    Held against the reference on a few windows of noise before it is used: a compiler may be at fault.
    """

    name = "native"
    exact = True

    def __init__(self, network: Network, head: DenseHead) -> None:
        self._native = NativeNetwork(open_default(), network)
        self._layer = head.layer
        shape = network.tensors[network.inputs[0]].shape[1:]
        noise = np.random.default_rng(0).integers(-128, 128, (CHECKED_WINDOWS, *shape)).astype(np.int8)
        if not np.array_equal(self.features(noise), inference.features(network, noise, head.layer)):
            raise SanderlingError("the C runtime gives other bytes than the reference on this machine")

    def features(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        return self._native.features(inputs, self._layer)
