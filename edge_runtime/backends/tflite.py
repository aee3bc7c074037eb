"""LiteRT and its predecessor tflite-runtime, which share one interface; XNNPACK where the runtime brings it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sanderling.edge_runtime.backends.backbone import backbone
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.network import Network
from sanderling.models.optional import require
from sanderling.models.tail import DenseHead

MODULES: Final = {
    "litert": ("ai_edge_litert.interpreter", "edge"),
    "tflite": ("tflite_runtime.interpreter", "tflite"),
}


class TfliteBackend:
    """One window an invocation, one thread."""

    exact = False

    def __init__(self, name: str, network: Network, head: DenseHead) -> None:
        self.name = name
        module = require(*MODULES[name])
        self._features = head.features
        self._model = to_tflite(backbone(network, head))  # the interpreter reads it in place
        self._interpreter: Any = module.Interpreter(model_content=self._model, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def features(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        out = np.empty((len(inputs), self._features), np.int8)
        for row, window in zip(out, inputs, strict=True):
            self._interpreter.set_tensor(self._input["index"], window.reshape(self._input["shape"]))
            self._interpreter.invoke()
            row[:] = self._interpreter.get_tensor(self._output).reshape(-1)
        return out
