"""From what a sensor gives to a network's int8 input: one mean and one standard deviation a channel.

    q = saturate(round((x - mean) * gain)),  gain = STEPS_PER_STD / std

Each operation is one of IEEE 754 float32, without fused multiply-add; round is to nearest, halves away from zero, as
C's roundf. So every host gives the same bytes. The networks of our zoo have the input scale 1 / STEPS_PER_STD and
zero point 0, so that what they see is the normalised value; `of_input` serves any other int8 input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic
from sanderling.models.errors import DatasetError, UsageError
from sanderling.models.operators import Quantization

STEPS_PER_STD = 16  # int8 reaches 8 standard deviations to either side


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """`mean` and `std` of each channel, each exactly a float32. UsageError when they are none that can be used."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(
                f"preprocessing: expected a mean and a std for each channel, came {len(self.mean)} and {len(self.std)}"
            )
        gains = STEPS_PER_STD / np.maximum(np.asarray(self.std, np.float32), np.float32(1e-30))
        if not (np.isfinite(self.mean).all() and np.isfinite(gains).all() and min(self.std) > 0):
            raise UsageError(
                f"preprocessing: expected finite means and positive stds, came {self.mean}, {self.std}"
            )

    @classmethod
    def fit(cls, examples: NDArray[np.float32]) -> Preprocessing:
        """Of examples (n, ..., channels). A channel that never changes gets the std 1."""
        flat = examples.reshape(-1, examples.shape[-1]).astype(np.float64)
        std = flat.std(axis=0)
        return cls(mean=_float32(flat.mean(axis=0)), std=_float32(np.where(std > 0, std, 1)))

    @classmethod
    def of_range(cls, low: float, high: float, channels: int) -> Preprocessing:
        """That which spreads low..high over -128..127: pixels of 0 to 255 lose nothing."""
        width = high - low if high > low else 1.0
        mean, std = low + width * 128 / 255, width * STEPS_PER_STD / 255
        return cls(mean=_float32([mean] * channels), std=_float32([std] * channels))

    @classmethod
    def of_input(cls, quantization: Quantization, channels: int) -> Preprocessing:
        """That which quantises real values as an int8 input of this scale and zero point expects."""
        scale, zero_point = quantization.scales[0], quantization.zero_points[0]
        return cls(
            mean=_float32([-zero_point * scale] * channels), std=_float32([STEPS_PER_STD * scale] * channels)
        )

    def quantize_input(self, examples: NDArray[np.float32]) -> NDArray[np.int8]:
        """float32 (n, ..., channels) to int8; windows (n, time, channels) become (n, 1, time, channels).

        DatasetError when the channels are not as many, or a value is not finite.
        """
        if examples.ndim < 2 or examples.shape[-1] != len(self.mean):
            raise DatasetError(
                f"examples: expected (n, ..., {len(self.mean)} channels) as the model has, came {examples.shape}"
            )
        if not np.isfinite(examples).all():
            raise DatasetError("examples: expected finite numbers, came NaN or infinity")
        mean = np.asarray(self.mean, np.float32)
        gain = np.float32(STEPS_PER_STD) / np.asarray(self.std, np.float32)
        with np.errstate(over="ignore"):  # an infinite step saturates
            steps = (examples.astype(np.float32) - mean) * gain
        quantized = arithmetic.saturate(arithmetic.round_half_away(steps))
        return quantized[:, None] if examples.ndim == 3 else quantized


def _float32(values: Any) -> tuple[float, ...]:
    return tuple(float(np.float32(value)) for value in values)
