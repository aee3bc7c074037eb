"""ONNX Runtime as a backend, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.edge_runtime.backends.backbone import backbone
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.network import Network
from sanderling.models.optional import require
from sanderling.models.tail import DenseHead


class OnnxRuntimeBackend:
    """One window an invocation, one thread."""

    name = "onnxruntime"
    exact = False

    def __init__(self, network: Network, head: DenseHead) -> None:
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = runtime.InferenceSession(
            to_onnx(backbone(network, head)), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._shape = network.tensors[network.inputs[0]].shape
        self._features = head.features

    def features(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        out = np.empty((len(inputs), self._features), np.int8)
        for row, window in zip(out, inputs, strict=True):
            (result,) = self._session.run(None, {self._input: window.reshape(self._shape)})
            row[:] = result.reshape(-1)
        return out
