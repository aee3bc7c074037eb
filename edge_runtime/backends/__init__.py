"""Which runtime computes the backbone's features: our integer runtime, LiteRT, tflite-runtime or ONNX Runtime.

The round plan's `arithmetic` and what is installed decide. Only the reference is exact; the others differ from it by
a few LSB (docs/arithmetic.md), and the agent measures and reports by how many on its own windows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import MissingError, ModelFormatError
from sanderling.models.network import Network
from sanderling.models.tail import DenseHead

Int8Array = NDArray[np.int8]
Arithmetic = Literal["exact", "fast"]
Preference = Literal["auto", "reference", "litert", "tflite", "onnxruntime"]

DRIFT_WINDOWS = 64


class Backend(Protocol):
    """Runs one network's backbone."""

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool:
        """Whether its bytes are the reference's."""

    def features(self, inputs: Int8Array) -> Int8Array:
        """What enters the head (n, F), for inputs (n, ...) as the network takes them."""


# In order of speed: what must be importable, and the extra that brings it.
FAST: Final = {
    "litert": (("ai_edge_litert", "flatbuffers", "tflite"), "edge"),
    "tflite": (("tflite_runtime", "flatbuffers", "tflite"), "tflite"),
    "onnxruntime": (("onnxruntime", "onnx"), "onnx"),
}


def available() -> tuple[str, ...]:
    """The backends that can run here, the fastest first; the reference always can."""
    return (*(name for name, (modules, _) in FAST.items() if all(map(find_spec, modules))), "reference")


def choose(arithmetic: Arithmetic, preference: Preference, installed: tuple[str, ...]) -> tuple[str, str]:
    """The backend's name, and why. MissingError when the preferred one is needed and not installed."""
    if arithmetic == "exact":
        aside = "" if preference in ("auto", "reference") else f", so not {preference}"
        return "reference", f"the plan asks for exact arithmetic{aside}"
    if preference == "auto":
        return installed[0], f"the plan allows fast arithmetic, installed: {', '.join(installed)}"
    if preference not in installed:
        raise MissingError(
            f"backend {preference!r} is not installed (installed: {', '.join(installed)}); "
            f"install it with `pip install 'sanderling[{FAST[preference][1]}]'`"
        )
    return preference, "it is set for this device"


def open_backend(name: str, network: Network, head: DenseHead) -> Backend:
    """Readies `network` for a backend. ModelFormatError where it cannot express the network."""
    # Imported here: a device loads one runtime, not all.
    if name == "reference":
        from sanderling.edge_runtime.backends.reference import ReferenceBackend

        return ReferenceBackend(network, head)
    if head.layer == 0:
        raise ModelFormatError(
            f"network {network.name!r} is its head alone; only the reference backend runs it"
        )
    if name == "onnxruntime":
        from sanderling.edge_runtime.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(network, head)
    from sanderling.edge_runtime.backends.tflite import TfliteBackend

    return TfliteBackend(name, network, head)


def open_chosen(
    arithmetic: Arithmetic,
    preference: Preference,
    network: Network,
    head: DenseHead,
    log: Callable[[str], None],
) -> Backend:
    """The chosen backend, ready; of the automatic ones the next, where one cannot run this network."""
    installed = available()
    while True:
        name, reason = choose(arithmetic, preference, installed)
        try:
            backend = open_backend(name, network, head)
        except ModelFormatError as refusal:
            if name == "reference" or preference != "auto":
                raise
            log(f"backend {name} cannot run network {network.name!r}: {refusal}")
            installed = tuple(other for other in installed if other != name)
        else:
            log(f"backend {name}: {reason}")
            return backend


def drift_lsb(backend: Backend, reference: Backend, inputs: Int8Array) -> int | None:
    """The largest difference of one feature from the reference, over the first windows; None when exact."""
    if backend.exact:
        return None
    sample = inputs[:DRIFT_WINDOWS]
    difference = backend.features(sample).astype(np.int16) - reference.features(sample)
    return int(np.abs(difference).max(initial=0))
