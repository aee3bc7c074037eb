"""Small vectors and reports for the rules' tests."""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.coordinator.aggregation.vectors import Vectors
from sanderling.coordinator.reports import Report
from sanderling.models.updates import QuantizedUpdate

STEP = 1 << 14  # theta's units of a step: results, in 2**-16, are then as fine as float32 or finer


def vectors(rows: object, unit: Fraction | int = STEP) -> Vectors:
    """Rows of integers as reports' vectors: int8 where they fit, as from the wire."""
    array = np.asarray(rows)
    small = np.abs(array).max(initial=0) <= 127
    return Vectors(rows=tuple(array.astype(np.int8 if small else np.int32)), unit=Fraction(unit))


def result(aggregator: Aggregator, rows: object, unit: Fraction | int = STEP) -> np.ndarray:
    """The rule's result in steps."""
    return aggregator.combine(vectors(rows, unit)) / 65536 / float(unit)


def report(
    device: str, values: object, *, coordinates: object = None, shift: int = 0, examples: int = 10
) -> Report:
    """A report of these int8 values, on coordinates 0.. unless given."""
    array = np.asarray(values, dtype=np.int8)
    chosen = np.arange(array.size) if coordinates is None else coordinates
    update = QuantizedUpdate(
        dimension=64, coordinates=np.asarray(chosen, dtype=np.int32), values=array, scale_shift=shift
    )
    return Report(
        device_id=device,
        num_examples=examples,
        update=update,
        validation_correct=0,
        validation_count=0,
        validation_loss=0.0,
        training_loss=0.0,
        message=b"",
    )


@st.composite
def matrices(draw: st.DrawFn, least: int = 1, most: int = 9, limit: int = 127) -> np.ndarray:
    """Rows of integers, of few different values half of the time: ties and copies."""
    n, k = draw(st.integers(least, most)), draw(st.integers(1, 6))
    bound = draw(st.sampled_from([1, limit]))
    flat = draw(st.lists(st.integers(-bound, bound), min_size=n * k, max_size=n * k))
    return np.array(flat, dtype=np.int64).reshape(n, k)
