"""Preprocessing in C gives the bytes of models/preprocessing.py, and refuses what is no reading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sanderling.models.native import Native
from sanderling.models.preprocessing import STEPS_PER_STD, Preprocessing

FLOATS = st.floats(-(2.0**127), 2.0**127, width=32)


def quantize(runtime: Native, preprocessing: Preprocessing, values: np.ndarray, low=-3.4e38, high=3.4e38):
    ffi = runtime.ffi
    mean = ffi.new("float[]", preprocessing.mean)
    gain = ffi.new(
        "float[]", (np.float32(STEPS_PER_STD) / np.asarray(preprocessing.std, np.float32)).tolist()
    )
    table = ffi.new(
        "sl_preprocessing *",
        {"channels": len(preprocessing.mean), "mean": mean, "gain": gain, "low": low, "high": high},
    )
    flat, out = np.ascontiguousarray(values, np.float32).ravel(), np.full(values.size, 99, np.int8)
    status = runtime.lib.sl_quantize_input(
        table, ffi.from_buffer("float[]", flat), flat.size, ffi.from_buffer("int8_t[]", out)
    )
    return status, out.reshape(values.shape)


@settings(max_examples=300)
@given(
    values=arrays.arrays(np.float32, (5, 3), elements=FLOATS | st.floats(-40, 40, width=32)),
    mean=st.tuples(*[st.floats(-10, 10, width=32)] * 3),
    std=st.tuples(*[st.floats(2**-10, 100, width=32)] * 3),
)
def test_c_quantises_as_the_reference(runtime: Native, values: np.ndarray, mean, std) -> None:
    preprocessing = Preprocessing(mean=mean, std=std)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = preprocessing.quantize_input(values[None])[0, 0]
    status, found = quantize(runtime, preprocessing, values)
    assert status == 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "steps", [0.5, -0.5, 1.5, np.nextafter(np.float32(0.5), np.float32(0)), 126.5, -128.5, 1e9]
)
def test_halves_go_away_from_zero(runtime: Native, steps: float) -> None:
    preprocessing = Preprocessing(mean=(0.0,), std=(16.0,))  # one step is one
    values = np.full((1, 1), steps, np.float32)
    assert quantize(runtime, preprocessing, values)[1] == preprocessing.quantize_input(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 8.5, -8.5])
def test_what_is_no_reading_is_refused_and_nothing_is_written(runtime: Native, bad: float) -> None:
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))
    status, found = quantize(runtime, preprocessing, np.array([[1.0], [bad]], np.float32), low=-8, high=8)
    assert status == -11
    assert (found == 99).all()
