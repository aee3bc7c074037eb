"""What is flashed of a model: its network, its input's preprocessing, its head, and the bytes its self-test has to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sanderling.firmware_export import golden
from sanderling.firmware_export.c_tree import Export, array
from sanderling.firmware_export.generate import generate
from sanderling.models.c_data import Struct, Table
from sanderling.models.lowering import Lowered, lower
from sanderling.models.network import Network
from sanderling.models.package import ModelPackage
from sanderling.models.preprocessing import STEPS_PER_STD, Preprocessing
from sanderling.models.tail import DenseHead, dense_head
from sanderling.models.tail_lowering import head_struct

LARGEST = float(np.finfo(np.float32).max)


def flashed_files(
    package: ModelPackage,
    *,
    low: float = -LARGEST,
    high: float = LARGEST,
    lowered: Lowered | None = None,
    includes: Sequence[str] = (),
) -> dict[str, str]:
    """The generated files of a node's model. A sensor's value outside of low..high is no reading.

    `lowered` is the network with other kernels than the plain ones, whose structs `includes` declare.

    ModelFormatError for a network that the C runtime cannot run, or whose last layer is no head to train.
    """
    network = package.network
    lowered, head = lowered or lower(network), dense_head(network)
    model = flashed_model(network, lowered, head, package.preprocessing, (low, high))
    return generate(
        network,
        lowered=lowered,
        exports=[Export(name="sl_flashed", value=model, comment="All of it, as the agent takes it.")],
        constants=sizes(network, lowered, head),
        includes=["sanderling/flashed_model.h", *includes],
    )


def sizes(network: Network, lowered: Lowered, head: DenseHead) -> Mapping[str, int]:
    """What an application sizes its memory by."""
    return {
        "SL_MODEL_INPUT_SIZE": int(np.prod(network.tensors[network.inputs[0]].shape)),
        "SL_MODEL_INPUT_AT": lowered.inputs[0].offset,  # in the arena
        "SL_MODEL_FEATURES": head.features,
        "SL_MODEL_CLASSES": head.classes,
        "SL_MODEL_DIMENSION": head.dimension,
    }


def flashed_model(
    network: Network,
    lowered: Lowered,
    head: DenseHead,
    preprocessing: Preprocessing,
    span: tuple[float, float],
) -> Struct:
    """The struct of flashed_model.h."""
    features = lowered.places[network.layers[head.layer].inputs[0]]
    assert features is not None, "a head's input is no constant"
    return Struct(
        ctype="sl_flashed_model",
        fields={
            "network": _one("network", lowered.network),
            "network_hash": array("uint8_t", network.content_hash, "network_hash"),
            "head_node": lowered.first_node_of_layer[head.layer],
            "features": features.offset,
            "preprocessing": _one("preprocessing", _preprocessing(preprocessing, span)),
            "head": _one("head", head_struct(head)),
            "golden": array("uint8_t", golden.digest(network, head), "golden"),
        },
    )


def _preprocessing(preprocessing: Preprocessing, span: tuple[float, float]) -> Struct:
    gain = np.float32(STEPS_PER_STD) / np.asarray(preprocessing.std, np.float32)
    return Struct(
        ctype="sl_preprocessing",
        fields={
            "channels": len(preprocessing.mean),
            "mean": array("float", np.asarray(preprocessing.mean, np.float32), "mean"),
            "gain": array("float", gain, "gain"),
            "low": span[0],
            "high": span[1],
        },
    )


def _one(name: str, struct: Struct) -> Table:
    return Table(ctype=struct.ctype, values=(struct,), name=name)
