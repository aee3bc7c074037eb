import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.models import network_file, specimens
from sanderling.models.errors import ModelFormatError


def specimen(seed: int):
    return specimens.random_network(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(60))
def test_decode_after_encode(seed):
    network = specimen(seed)
    data = network_file.to_bytes(network)
    again = network_file.from_bytes(data)
    assert (again.content_hash, again.name) == (network.content_hash, network.name)
    assert str(again) == str(network)
    assert network_file.to_bytes(again) == data


def test_constants_are_read_only():
    network = network_file.from_bytes(network_file.to_bytes(specimen(0)))
    constants = [tensor.data for tensor in network.tensors if tensor.data is not None]
    assert constants
    assert not any(data.flags.writeable for data in constants)


def test_what_is_no_network_file():
    for data in (b"", b"SNDRNET", b"\x1c\0\0\0TFL3" + bytes(100)):
        with pytest.raises(ModelFormatError, match="expected the magic"):
            network_file.from_bytes(data)


def test_another_version_is_named():
    data = bytearray(network_file.to_bytes(specimen(0)))
    data[7] = 9
    with pytest.raises(ModelFormatError, match="version 9, this build reads version 1"):
        network_file.from_bytes(bytes(data))


def test_truncated_or_longer_is_refused():
    data = network_file.to_bytes(specimen(3))
    for end in range(0, len(data), 7):
        with pytest.raises(ModelFormatError):
            network_file.from_bytes(data[:end])
    with pytest.raises(ModelFormatError, match="nothing after it"):
        network_file.from_bytes(data + b"\0")


def test_a_changed_weight_is_noticed():
    data = bytearray(network_file.to_bytes(specimen(3)))
    data[-1] ^= 1
    with pytest.raises(ModelFormatError, match="content hash"):
        network_file.from_bytes(bytes(data))


def with_header(change) -> bytes:
    data = network_file.to_bytes(specimen(0))
    (length,) = struct.unpack_from("<I", data, 40)
    header = change(data[44 : 44 + length])
    return data[:40] + struct.pack("<I", len(header)) + header + data[44 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: b"[" * 200_000,
        lambda header: b"{}",
        lambda header: b"null",
        lambda header: b"[1]",
        lambda header: header.replace(b'"kind":"', b'"kind":"no'),
        lambda header: header.replace(b'"shape":[', b'"shape":[268435456,'),
        lambda header: header.replace(b'"shape":[', b'"shape":[-1,'),
        lambda header: header.replace(b'"shape":[', b'"shape":["8",'),
        lambda header: header.replace(b'"shape":[', b'"shape":[true,'),
        lambda header: header.replace(b'"inputs":[', b'"inputs":[99999,'),
        lambda header: header.replace(b'"inputs":[', b'"inputs":[' + b"9" * 5000 + b","),
        lambda header: header.replace(b",", b", ", 1),
    ],
)
def test_a_malformed_header_is_refused(change):
    data = with_header(change)
    with pytest.raises(ModelFormatError):
        network_file.from_bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), st.data())
def test_no_damage_escapes_as_another_error(seed, draw):
    data = bytearray(network_file.to_bytes(specimen(seed)))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(8, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        network = network_file.from_bytes(bytes(data))
    except ModelFormatError:
        return
    assert network_file.to_bytes(network) == data
