"""Which runtime computes the backbone's features: our own, in NumPy or C, LiteRT, tflite-runtime or ONNX Runtime.

The round plan's `arithmetic` and what is installed decide. Our own are exact; the others differ from them by
a few LSB (docs/arithmetic.md), and the agent measures and reports by how many on its own windows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import MissingError, ModelFormatError, SanderlingError
from sanderling.models.native import default_library
from sanderling.models.network import Network
from sanderling.models.tail import DenseHead

Int8Array = NDArray[np.int8]
Arithmetic = Literal["exact", "fast"]
Preference = Literal["auto", "reference", "native", "litert", "tflite", "onnxruntime"]

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


EXACT: Final = ("native", "reference")  # in the order in which they are taken


def available() -> tuple[str, ...]:
    """The backends that can run here, the fastest first; the reference always can."""
    fast = (name for name, (modules, _) in FAST.items() if all(map(find_spec, modules)))
    native = ("native",) if find_spec("cffi") and default_library() else ()
    return (*fast, *native, "reference")


def choose(arithmetic: Arithmetic, preference: Preference, installed: tuple[str, ...]) -> tuple[str, str]:
    """The backend's name, and why. MissingError when the preferred one is needed and not installed."""
    if arithmetic == "exact" and preference not in EXACT:
        aside = "" if preference == "auto" else f", so not {preference}"
        name = next(name for name in EXACT if name in installed)
        return name, f"the plan asks for exact arithmetic{aside}"
    if preference == "auto":
        return installed[0], f"the plan allows fast arithmetic, installed: {', '.join(installed)}"
    if preference not in installed:
        raise MissingError(
            f"backend {preference!r} is not installed (installed: {', '.join(installed)}); {_how_to_get(preference)}"
        )
    return preference, "it is set for this device"


def _how_to_get(name: str) -> str:
    if name == "native":
        return "install cffi, and build it with `sanderling native build`"
    return f"install it with `pip install 'sanderling[{FAST[name][1]}]'`"


def open_backend(name: str, network: Network, head: DenseHead) -> Backend:
    """Readies `network` for a backend. ModelFormatError where it cannot express the network."""
    # Imported here: a device loads one runtime, not all.
    if name == "reference":
        from sanderling.edge_runtime.backends.reference import ReferenceBackend

        return ReferenceBackend(network, head)
    if name == "native":
        from sanderling.edge_runtime.backends.native import NativeBackend

        return NativeBackend(network, head)
    if head.layer == 0:
        raise ModelFormatError(f"network {network.name!r} is its head alone; only the exact backends run it")
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
    """The chosen backend, ready; where it was not asked for and cannot run this network or at all, the next."""
    installed = available()
    while True:
        name, reason = choose(arithmetic, preference, installed)
        try:
            backend = open_backend(name, network, head)
        except SanderlingError as refusal:
            if name in ("reference", preference):
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
