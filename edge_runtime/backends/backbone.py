"""The frozen part of a network as a network of its own, for runtimes that only run whole models."""

from __future__ import annotations

from dataclasses import replace

from sanderling.models.network import Network
from sanderling.models.tail import DenseHead


def backbone(network: Network, head: DenseHead) -> Network:
    """The layers before the head; its one output is the tensor that enters the head. Needs at least one layer."""
    layers = network.layers[: head.layer]
    entering = network.layers[head.layer].inputs[0]
    used = sorted(
        {entering, *network.inputs, *(i for layer in layers for i in (*layer.inputs, *layer.outputs))}
    )
    position = {old: new for new, old in enumerate(used)}

    def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(position[i] for i in indices)

    return replace(
        network,
        name=f"{network.name} backbone",
        tensors=tuple(network.tensors[i] for i in used),
        layers=tuple(
            replace(layer, inputs=moved(layer.inputs), outputs=moved(layer.outputs)) for layer in layers
        ),
        inputs=moved(network.inputs),
        outputs=(position[entering],),
    )
