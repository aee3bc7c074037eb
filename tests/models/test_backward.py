"""Errors in block floating point, and the operators that pass them back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.backward import backward_of
from sanderling.models.block_float import NOTHING, Error, as_factor, normalized, plus, shortened, times
from sanderling.models.checks import window_output
from sanderling.models.deep_tail import weighted_layers
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import Layer, Mul
from sanderling.models.products import Windows, product_of
from tests.models import deep_networks
from tests.models.tails import activation

sums = st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=6)
exponents = st.integers(-40, 80)


def error_of(values, exponent):
    return normalized(np.array(values, dtype=np.float64)[None, None], np.array([[exponent]]))


def real(error):
    return (error.mantissas * np.ldexp(1.0, -error.exponents)[..., None])[0, 0]


@given(sums, exponents)
def test_normalised_mantissas_have_twelve_bits_and_the_same_value(values, exponent):
    error = error_of(values, exponent)
    largest = np.abs(error.mantissas).max()
    assert largest == 0 or 2048 <= largest <= 4096
    wanted = np.array(values) * 2.0**-exponent
    assert np.abs(real(error) - wanted).max() <= np.abs(wanted).max() / 4096


def test_normalised_rounds_halves_up():
    # 5 bits too many: 32 * (1.5, -1.5, 2.5) are halves of the new unit
    error = error_of([4095 * 32, 48, -48, 80], 7)
    assert error.mantissas.tolist() == [[[4095, 2, -1, 3]]]
    assert error.exponents.tolist() == [[2]]


def test_an_error_that_is_zero_everywhere_has_no_part_in_a_sum():
    nothing, something = error_of([0, 0], 3), error_of([5, -9], 90)
    assert nothing.exponents.tolist() == [[NOTHING]]
    both = plus(nothing, something)
    assert both.mantissas.tolist() == something.mantissas.tolist()
    assert both.exponents.tolist() == something.exponents.tolist()
    assert plus(nothing, nothing).exponents.tolist() == [[NOTHING]]


@given(st.data(), exponents, exponents, st.integers(1, 5))
def test_sum_is_commutative_and_close(data, p, q, size):
    a, b = (
        error_of(data.draw(st.lists(st.integers(-4096, 4096), min_size=size, max_size=size)), e)
        for e in (p, q)
    )
    left, right = plus(a, b), plus(b, a)
    assert left.mantissas.tolist() == right.mantissas.tolist()
    assert left.exponents.tolist() == right.exponents.tolist()
    wanted = real(a) + real(b)
    unit = np.ldexp(1.0, -np.minimum(a.exponents, b.exponents) - 15).item()
    assert np.abs(real(left) - wanted).max() <= np.abs(wanted).max() / 2048 + unit


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), st.integers(-4096, 4096), exponents)
def test_times_multiplies(reals, mantissa, exponent):
    factor = as_factor(reals)
    assert 2**14 <= factor.mantissas.max() <= 2**15
    before = Error(mantissas=np.full((1, 1, len(reals)), mantissa * 1.0), exponents=np.array([[exponent]]))
    after = real(times(before, factor))
    wanted = real(before) * np.array(reals)
    unit = 2.0 ** (factor.exponent - exponent)
    assert (np.abs(after - wanted) <= 0.7 * unit).all()


@given(st.floats(1e-12, 1e12))
def test_short_number_has_fifteen_bits(value):
    short = float(shortened(value))
    assert abs(short - value) <= value * 2.0**-15
    mantissa, _ = np.frexp(short)
    assert float(mantissa) * 2**15 == int(mantissa * 2**15)


# Windows and products are linear maps: what passes errors back is the transpose.


@given(st.integers(0, 2**32 - 1))
def test_fold_is_the_transpose_of_unfold(seed):
    rng = np.random.default_rng(seed)
    height, width, depth = rng.integers(1, 7, 3)
    window = (int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1)))
    dilation = tuple(2 if (k - 1) * 2 < n else 1 for k, n in zip(window, (height, width), strict=True))
    stride, padding = tuple(rng.integers(1, 4, 2)), tuple(rng.integers(0, 3, 4))
    rows = window_output(height, window[0], stride[0], *padding[:2], dilation[0])
    columns = window_output(width, window[1], stride[1], *padding[2:], dilation[1])
    windows = Windows(
        window=window, stride=stride, padding=padding, dilation=dilation, rows=rows, columns=columns
    )
    x = rng.integers(-9, 9, (2, height, width, depth)).astype(np.float64)
    unfolded = windows.unfold(x)
    parts = rng.integers(-9, 9, unfolded.shape).astype(np.float64)
    assert (unfolded * parts).sum() == (x * windows.fold(parts, height, width)).sum()


@pytest.mark.parametrize("name", deep_networks.ALL)
def test_products_are_linear_in_weights_and_inputs(name):
    """<e, W x> is <W^T e, x> and <dW, W>, exactly, for every layer with weights."""
    network, rng = deep_networks.ALL[name](), np.random.default_rng(3)
    for index in weighted_layers(network):
        product = product_of(network, network.layers[index])
        x = rng.integers(-255, 256, (2, 3, *product.input_shape)).astype(np.float64)
        weights = rng.integers(-127, 128, (2, product.channels, product.terms)).astype(np.float64)
        columns = product.columns(x)
        y = product.sums(columns, weights)
        e = rng.integers(-4096, 4097, y.shape).astype(np.float64)
        assert (e * y).sum() == (product.input_sums(e, weights) * x).sum()
        gradient = product.gradient(e, columns, slice(None))
        assert (e * y).sum() == (gradient * weights[:, None]).sum()
        some = [0, product.channels - 1]
        assert (product.gradient(e, columns, some) == gradient[:, :, some]).all()
        theta = rng.integers(-9, 9, (2, 2 * product.terms))
        assert (product.to_theta(product.from_theta(theta, 2)) == theta).all()


def test_operator_without_a_way_back_is_refused():
    network = deep_networks.multilayer()
    tensors = (activation("a", (1, 2), 0.1, 0), activation("b", (1, 2), 0.1, 0))
    layer = Layer(name="gate", operator=Mul(), inputs=(0, 0), outputs=(1,))
    object.__setattr__(network, "tensors", tensors)
    with pytest.raises(ModelFormatError, match=r"'gate' \(Mul\): no error can be passed back"):
        backward_of(network, layer)
