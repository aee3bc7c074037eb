"""A trainable head as the tables that the C runtime reads: fields of the structs in its headers, by name.

docs/arithmetic.md, "Training a dense head": what does not depend on the round's rates is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sanderling.models.errors import ModelFormatError
from sanderling.models.tail import DenseHead
from sanderling.models.training import exponent_scale

Fields = Mapping[str, "int | float | Fields"]

MAX_HEAD_SIZE = 1 << 15  # features, classes: differences of accumulators stay within 32 bits
MAX_EXPONENT_SHIFT = 23


def head_fields(head: DenseHead) -> Fields:
    """The fields of `sl_head`. ModelFormatError where the C runtime cannot hold it."""
    multiplier, shift, reach = exponent_scale(head)
    if max(head.features, head.classes) > MAX_HEAD_SIZE or shift > MAX_EXPONENT_SHIFT:
        raise ModelFormatError(
            f"a head of {head.features} features, {head.classes} classes, scales {head.input_scale} and "
            f"{head.weight_scale} is beyond the C runtime: at most {MAX_HEAD_SIZE} of each"
        )
    return {
        "features": head.features,
        "classes": head.classes,
        "input_zero_point": head.input_zero_point,
        "bias_input": head.bias_input,
        "exp_scale": {"multiplier": multiplier, "shift": shift},
        "reach": min(reach, (1 << 31) - 1),
        "input_scale": head.input_scale,
        "weight_scale": head.weight_scale,
    }
