"""The update codec: laws, bounds, and every way in which bytes are not an update."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.errors import CodecError
from sanderling.models.errors import ProtocolError, UsageError
from sanderling.models.updates import QuantizedUpdate


def make_update(d, coordinates, values, scale_shift=0):
    return QuantizedUpdate(
        dimension=d,
        coordinates=np.array(coordinates, np.int32),
        values=np.array(values, np.int8),
        scale_shift=scale_shift,
    )


def random_update(seed, d, k, sigma=12.0):
    rng = np.random.default_rng(seed)
    values = np.clip(np.rint(rng.normal(0, sigma, k)), -127, 127)
    return make_update(d, np.sort(rng.choice(d, k, replace=False)), values, scale_shift=3)


def same(a, b):
    return (
        (a.dimension, a.scale_shift) == (b.dimension, b.scale_shift)
        and np.array_equal(a.coordinates, b.coordinates)
        and np.array_equal(a.values, b.values)
        and a.values.dtype == b.values.dtype
        and a.coordinates.dtype == b.coordinates.dtype
    )


@st.composite
def updates(draw):
    d = draw(st.integers(1, 300))
    coordinates = sorted(draw(st.sets(st.integers(0, d - 1))))
    bound = draw(st.sampled_from([0, 1, 5, 40, 127]))
    values = draw(st.lists(st.integers(-bound, bound), min_size=len(coordinates), max_size=len(coordinates)))
    outlier = draw(st.integers(-127, 127))
    if values:
        values[draw(st.integers(0, len(values) - 1))] = outlier
    return make_update(d, coordinates, values, draw(st.integers(0, 16)))


def log2_choose(d, k):
    return math.log2(math.comb(d, k))


class TestLaws:
    @given(updates())
    def test_decode_after_encode_gives_the_update_under_a_shared_mask(self, update):
        data = codec.encode(update, shared_coordinates=True)
        assert same(codec.decode(data, dimension=update.dimension, coordinates=update.coordinates), update)

    @given(updates())
    def test_decode_after_encode_gives_the_update_when_coordinates_travel(self, update):
        data = codec.encode(update, shared_coordinates=False)
        assert same(codec.decode(data, dimension=update.dimension), update)

    @given(updates(), st.booleans(), st.data())
    def test_whatever_is_accepted_after_damage_is_canonical(self, update, shared, data):
        encoded = bytearray(codec.encode(update, shared_coordinates=shared))
        for _ in range(data.draw(st.integers(1, 3))):
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        coordinates = update.coordinates if shared else None
        try:
            decoded = codec.decode(bytes(encoded), dimension=update.dimension, coordinates=coordinates)
        except CodecError:
            return
        assert codec.encode(decoded, shared_coordinates=shared) == encoded

    @given(st.binary(max_size=60), st.integers(1, 400), st.booleans())
    def test_arbitrary_bytes_give_an_update_or_a_codec_error(self, data, d, shared):
        coordinates = np.arange(min(d, 9), dtype=np.int32) if shared else None
        try:
            decoded = codec.decode(data, dimension=d, coordinates=coordinates)
        except CodecError:
            return
        assert codec.encode(decoded, shared_coordinates=shared) == data

    @given(updates(), st.booleans())
    def test_every_truncation_and_every_trailing_byte_is_refused(self, update, shared):
        data = codec.encode(update, shared_coordinates=shared)
        coordinates = update.coordinates if shared else None
        for wrong in [*(data[:n] for n in range(len(data))), data + b"\0", data + b"\xff"]:
            with pytest.raises(CodecError):
                codec.decode(wrong, dimension=update.dimension, coordinates=coordinates)

    @given(updates())
    @example(make_update(300, range(0, 300, 2), [0] * 150))
    @example(make_update(300, range(299), [0] * 299))
    def test_index_costs_at_most_two_bits_over_its_bound(self, update):
        d, k = update.dimension, len(update.coordinates)
        bits = codec.index_bits(update.coordinates, d)
        assert bits <= log2_choose(d, k) + 2 + k * d / 2**23

    @given(updates())
    def test_values_never_cost_more_than_raw_bytes(self, update):
        k = len(update.values)
        assert len(codec.encode(update, shared_coordinates=True)) <= 2 + (1 if k < 128 else 2) + k


@pytest.mark.parametrize(("d", "k"), [(100, 50), (455, 50), (5_000, 50), (50_000, 50)])
def test_index_within_six_percent_of_its_bound_at_fifty_coordinates(d, k):
    assert codec.index_bits(random_update(1, d, k).coordinates, d) <= 1.06 * log2_choose(d, k)


@pytest.mark.parametrize("density", [0.002, 0.01, 0.05, 0.2, 0.36, 0.39, 0.5])
@pytest.mark.parametrize("d", [4_096, 10_000])
def test_index_within_three_percent_of_its_bound_at_every_density(d, density):
    k = round(d * density)
    assert codec.index_bits(random_update(2, d, k).coordinates, d) <= 1.03 * log2_choose(d, k)


def test_largest_dimension_survives_the_coder_with_one_coordinate_at_either_end():
    for coordinate in (0, 1, codec.MAX_DIMENSION - 1):
        update = make_update(codec.MAX_DIMENSION, [coordinate], [-5])
        data = codec.encode(update, shared_coordinates=False)
        assert same(codec.decode(data, dimension=codec.MAX_DIMENSION), update)
        assert len(data) <= 3 + 3 + 4


def test_carry_runs_through_a_string_of_ff_bytes():
    out = bytearray(b"\x01\xff\xff")
    assert codec._shift_out(out, 0x1_2345_6789) == 0x4567_8900
    assert out == b"\x02\x00\x00\x23"


def test_an_update_worked_by_hand():
    # 1, -1, 0, 2 zig-zag to 2, 1, 0, 4. Parameter 0 costs 3 + 2 + 1 + 5 = 11 bits, 1 costs 3 + 2 + 2 + 4
    # = 11, 2 costs 3 + 3 + 3 + 4 = 13. The smaller of equals: 110 10 0 11110.
    data = codec.encode(make_update(10, [0, 3, 4, 9], [1, -1, 0, 2], 5), shared_coordinates=True)
    assert data == bytes([0x10, 5, 4, 0b11010011, 0b11000000])


def test_an_outlier_among_zeros_escapes():
    # 99 zeros take a bit each; 127 zig-zags to 254: 15 ones, a zero, 8 bits. 123 bits in 16 bytes.
    update = make_update(100, range(100), [0] * 99 + [127])
    data = codec.encode(update, shared_coordinates=True)
    assert len(data) == 3 + 16
    assert same(codec.decode(data, dimension=100, coordinates=update.coordinates), update)


def test_half_of_the_coordinates_in_order_cost_no_more_than_a_random_half():
    assert codec.index_bits(np.arange(500, dtype=np.int32), 1000) <= log2_choose(1000, 500) + 3


def test_no_coordinates_and_all_coordinates_take_no_index_bits():
    assert codec.index_bits(np.arange(0, dtype=np.int32), 40) == 0
    assert codec.index_bits(np.arange(40, dtype=np.int32), 40) == 0


class TestRefusals:
    def refused(self, match, data, **kwargs):
        with pytest.raises(CodecError, match=match) as caught:
            codec.decode(bytes(data), **kwargs)
        assert isinstance(caught.value, ProtocolError)
        return caught.value

    def shared(self, update=None):
        update = update or make_update(10, [0, 3, 4, 9], [1, -1, 0, 2])
        return bytearray(codec.encode(update, shared_coordinates=True)), {
            "dimension": update.dimension,
            "coordinates": update.coordinates,
        }

    def test_unknown_version_is_named_and_counted_apart(self):
        data, fits = self.shared()
        data[0] = 0x20 | data[0] & 15
        assert self.refused("version 2, this build reads 1", data, **fits).reason == "unknown_version"

    def test_scale_shift_out_of_range(self):
        data, fits = self.shared()
        data[1] = 17
        assert self.refused("scale shift 17", data, **fits).reason == "codec"

    def test_count_other_than_the_mask(self):
        data, fits = self.shared()
        self.refused(
            "4 values, the round's mask has 3", data, **{**fits, "coordinates": fits["coordinates"][:3]}
        )

    def test_padding_that_is_not_zero(self):
        data, fits = self.shared()
        data[-1] |= 1
        self.refused("only zero padding", data, **fits)

    def test_coordinates_that_travel_when_the_plan_shares_them_and_the_reverse(self):
        update = make_update(10, [0, 3, 4, 9], [1, -1, 0, 2])
        travelling = codec.encode(update, shared_coordinates=False)
        self.refused("travel in this update", travelling, dimension=10, coordinates=update.coordinates)
        self.refused("stay at home", self.shared()[0], dimension=10)

    def test_dimension_of_another_model(self):
        data = codec.encode(random_update(0, 455, 50), shared_coordinates=False)
        self.refused("dimension 455, the model has 456", data, dimension=456)

    def test_more_coordinates_than_the_model_or_the_plan_has(self):
        data = codec.encode(random_update(0, 455, 50), shared_coordinates=False)
        self.refused("50 coordinates, at most 49", data, dimension=455, max_coordinates=49)
        self.refused("200 coordinates, at most 100", [0x18, 0, 0xC8, 0x01, 100, 0], dimension=100)

    def test_index_bits_the_encoder_would_not_have_chosen(self):
        # Place 2 of 3: from 2/3 to 1 of 2**32, so 3 bits, 110; 111 lies inside too, but is not the lowest.
        data = bytearray(codec.encode(make_update(3, [2], [0]), shared_coordinates=False))
        assert data == bytes([0x18, 0, 1, 3, 0b11000000])
        data[-1] = 0b11100000
        self.refused("not canonical", data, dimension=3)

    def test_all_ones_lie_outside_every_interval(self):
        self.refused("not canonical", [0x18, 0, 5, 10, *[255] * 6], dimension=10)

    def test_a_longer_varint(self):
        self.refused(
            "not canonical", [0x10, 0, 0x84, 0x00, 0], dimension=9, coordinates=np.arange(4, dtype=np.int32)
        )
        self.refused("longer than 3", [0x10, 0, 0x84, 0x80, 0x80, 1], dimension=9, coordinates=np.arange(4))

    def test_a_worse_rice_parameter(self):
        data, fits = self.shared(make_update(4, range(4), [0, 0, 0, 0]))
        assert data[3:] == b"\0"
        data[0] |= 1  # parameter 1: four zeros of one bit, four low bits of zero
        self.refused("value coding 1, 0 takes fewer bits", data, **fits)

    def test_an_escape_too_small_or_a_run_too_long(self):
        fits = {"dimension": 9, "coordinates": np.arange(9, dtype=np.int32)}
        run = [0, 0b11111111, 0b11111110]  # eight values of 0, then 15 ones and a zero
        self.refused("escaped quotient", [0x10, 0, 9, *run, 14], **fits)
        self.refused("a run of 16 ones", [0x10, 0, 9, 0, 255, 255, 0], **fits)

    def test_a_quotient_beyond_the_largest_value(self):
        """Which in eight bits would be that of another value."""
        data, fits = self.shared(make_update(5, range(5), [20, 20, 20, 20, 50]))
        assert data.hex() == "1600050a8a28a240"  # 0 0 0 0 10, then the low bits
        self.refused("quotient of 5", bytes.fromhex("1600050fa8a28a24"), **fits)

    def test_value_minus_128(self):
        fits = {"dimension": 1, "coordinates": np.arange(1, dtype=np.int32)}
        self.refused("-128", [0x17, 0, 1, 0xFF], **fits)

    def test_memory_is_bounded_before_anything_is_unpacked(self):
        data, fits = self.shared()
        self.refused("trailing bytes", data + bytes(1_000_000), **fits)


@pytest.mark.parametrize(
    ("update", "match"),
    [
        (make_update(4, [0, 0], [1, 1]), "ascend"),
        (make_update(4, [1, 0], [1, 1]), "ascend"),
        (make_update(4, [4], [1]), "ascend"),
        (make_update(4, [-1], [1]), "ascend"),
        (make_update(4, [0], [-128]), "-128"),
        (make_update(4, [0], [1], 17), "scale shift 17"),
        (make_update(4, [0], [1, 2]), "k int8 values"),
        (make_update(0, [], []), "dimension 0"),
    ],
)
def test_encode_refuses_what_is_no_update(update, match):
    with pytest.raises(UsageError, match=match):
        codec.encode(update, shared_coordinates=True)
