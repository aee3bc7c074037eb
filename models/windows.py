"""How windows lie along one axis of an image: how many there are, and TFLite's SAME padding."""

from __future__ import annotations


def window_output(size: int, window: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """How many windows fit along an axis of `size`, padded; below 1 when none does."""
    return (size + before + after - (window - 1) * dilation - 1) // stride + 1


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after) of TFLite's SAME padding: ceil(size / stride) windows, the larger half after."""
    total = max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
    return total // 2, total - total // 2
