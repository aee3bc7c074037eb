"""What importers share: limits on what a file may ask for, and the last step from parts to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import Layer, Network, Tensor

MAX_FILE_BYTES = 2**28
MAX_TENSORS = 20_000
MAX_LAYERS = 10_000
MAX_TOTAL_ELEMENTS = 2**26  # over all tensors of a file


def compact(
    *,
    name: str,
    tensors: Sequence[Tensor],
    layers: Sequence[Layer],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Network:
    """The network of the tensors that layers, inputs or outputs use, numbered anew in their order."""
    ends = (*inputs, *outputs)
    if bad := [i for i in ends if not 0 <= i < len(tensors)]:
        raise ModelFormatError(f"network {name!r}: tensor {bad[0]} of {len(tensors)} does not exist")
    used = sorted({i for layer in layers for i in (*layer.inputs, *layer.outputs)} | set(ends))
    number = {old: new for new, old in enumerate(used)}
    return Network(
        name=name,
        tensors=tuple(tensors[i] for i in used),
        layers=tuple(
            replace(
                layer,
                inputs=tuple(number[i] for i in layer.inputs),
                outputs=tuple(number[i] for i in layer.outputs),
            )
            for layer in layers
        ),
        inputs=tuple(number[i] for i in inputs),
        outputs=tuple(number[i] for i in outputs),
    )
