"""The small network that these tests reckon with."""

import numpy as np

from sanderling.models.network import FullyConnected, Layer, Network, Quantization, Tensor

HALF = Quantization(scales=(0.5,), zero_points=(0,))


def two_layers(*, inputs: int = 32, features: int = 64, classes: int = 4) -> Network:
    """x (inputs) -> dense `body` (features) -> dense `head` (classes)."""

    def tensor(name: str, *shape: int) -> Tensor:
        data = np.ones(shape, np.int8) if name.startswith("w") else None
        return Tensor(name=name, shape=shape, dtype="int8", quantization=HALF, data=data)

    tensors = (
        tensor("x", 1, inputs),
        tensor("features", 1, features),
        tensor("logits", 1, classes),
        tensor("w1", features, inputs),
        tensor("w2", classes, features),
    )
    layers = (
        Layer(name="body", operator=FullyConnected(), inputs=(0, 3), outputs=(1,)),
        Layer(name="head", operator=FullyConnected(), inputs=(1, 4), outputs=(2,)),
    )
    return Network(name="two layers", tensors=tensors, layers=layers, inputs=(0,), outputs=(2,))
