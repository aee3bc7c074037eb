import numpy as np
import pytest

from sanderling.models.errors import DatasetError, UsageError
from sanderling.models.operators import Quantization
from sanderling.models.preprocessing import Preprocessing


def test_by_hand():
    # (x - 1) * 16 / 2: 8 steps for each unit above 1, halves away from zero, saturating
    preprocessing = Preprocessing(mean=(1.0,), std=(2.0,))
    x = np.array([[1, 2, 0, 1.0625, 0.9375, 16.875, 17, -15, -99]], np.float32).T
    assert preprocessing.quantize_input(x)[:, 0].tolist() == [0, 8, -8, 1, -1, 127, 127, -128, -128]


def test_each_channel_has_its_own():
    preprocessing = Preprocessing(mean=(0.0, 10.0), std=(1.0, 4.0))
    windows = np.array([[[1, 14], [2, 6]]], np.float32)
    assert preprocessing.quantize_input(windows).tolist() == [[[[16, 16], [32, -16]]]]


def test_shapes():
    preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    for shape, expected in [((5, 3), (5, 3)), ((5, 9, 3), (5, 1, 9, 3)), ((5, 8, 9, 3), (5, 8, 9, 3))]:
        quantized = preprocessing.quantize_input(np.zeros(shape, np.float32))
        assert quantized.shape == expected
        assert quantized.dtype == np.int8


def test_fit_normalises():
    examples = np.random.default_rng(0).normal([3, -2], [0.5, 9], (400, 10, 2)).astype(np.float32)
    quantized = Preprocessing.fit(examples).quantize_input(examples).astype(float)
    assert np.allclose(quantized.mean(axis=(0, 1, 2)), 0, atol=0.02)
    assert np.allclose(quantized.std(axis=(0, 1, 2)), 16, atol=0.05)


def test_a_channel_that_never_changes_gets_zeros():
    examples = np.full((4, 10, 1), 7, np.float32)
    assert not Preprocessing.fit(examples).quantize_input(examples).any()


def test_of_a_range_keeps_every_pixel():
    pixels = np.arange(256, dtype=np.float32)[:, None]
    for divisor in (1, 255):
        preprocessing = Preprocessing.of_range(0, 255 / divisor, channels=1)
        quantized = preprocessing.quantize_input(pixels / np.float32(divisor))
        assert quantized[:, 0].tolist() == list(range(-128, 128))


def test_of_any_int8_input():
    preprocessing = Preprocessing.of_input(Quantization(scales=(0.25,), zero_points=(-8,)), channels=2)
    assert preprocessing.quantize_input(np.array([[0, 1]], np.float32)).tolist() == [[-8, -4]]


def test_float32_throughout():
    """The same bytes as the specification's three float32 operations, one after the other."""
    rng = np.random.default_rng(1)
    preprocessing = Preprocessing(mean=(float(np.float32(0.1)),), std=(float(np.float32(0.3)),))
    x = rng.normal(size=(5000, 1)).astype(np.float32)
    gain = np.float32(16) / np.float32(0.3)
    expected = [int(np.trunc(float(v) + np.copysign(0.5, v))) for v in (x[:, 0] - np.float32(0.1)) * gain]
    assert preprocessing.quantize_input(x)[:, 0].tolist() == np.clip(expected, -128, 127).tolist()


@pytest.mark.parametrize(
    ("mean", "std"),
    [((), ()), ((0.0,), (1.0, 1.0)), ((0.0,), (0.0,)), ((float("nan"),), (1.0,)), ((0.0,), (-1.0,))],
)
def test_what_cannot_be_used_is_refused(mean, std):
    with pytest.raises(UsageError, match="preprocessing: expected"):
        Preprocessing(mean=mean, std=std)


def test_examples_that_do_not_fit_are_refused():
    preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(DatasetError, match=r"3 channels\) as the model has, came \(4, 9, 2\)"):
        preprocessing.quantize_input(np.zeros((4, 9, 2), np.float32))
    with pytest.raises(DatasetError, match="finite"):
        preprocessing.quantize_input(np.full((1, 3), np.inf, np.float32))
