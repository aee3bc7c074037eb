from __future__ import annotations

from dataclasses import replace

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import Network
from sanderling.models.package import LIMIT_BYTES, VERSION, ModelPackage
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.specimens import random_network

NETWORK = random_network(np.random.default_rng(3), operator="fully_connected")
CLASSES = NETWORK.tensors[NETWORK.outputs[0]].shape[-1]
PACKAGE = ModelPackage(
    network=NETWORK,
    preprocessing=Preprocessing(mean=(0.5, -2.25), std=(1.0, 0.125)),
    class_names=tuple(f"kind {number}, größer" for number in range(CLASSES)),
)
ENCODED = PACKAGE.to_bytes()


def altered(**items: object) -> bytes:
    """The encoding with the items of those numbers replaced."""
    array = cbor2.loads(ENCODED)
    for number, item in items.items():
        array[int(number.removeprefix("item"))] = item
    return cbor2.dumps(array)


def test_what_was_written_is_read():
    read = ModelPackage.from_bytes(ENCODED)
    assert read.network.content_hash == NETWORK.content_hash
    assert read.preprocessing == PACKAGE.preprocessing
    assert read.class_names == PACKAGE.class_names
    assert read.to_bytes() == ENCODED


def test_a_network_whose_output_is_no_class_goes_without_names():
    assert ModelPackage.from_bytes(replace(PACKAGE, class_names=()).to_bytes()).class_names == ()


def test_names_for_more_or_fewer_classes_are_refused():
    with pytest.raises(ModelFormatError, match=f"tells {CLASSES} classes apart, {CLASSES + 1} have a name"):
        replace(PACKAGE, class_names=(*PACKAGE.class_names, "one more"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected CBOR"),
        (b"\xff", "expected CBOR"),
        (cbor2.dumps({}), "expected an array"),
        (cbor2.dumps([]), "expected an array"),
        (altered(item0=2), f"version 2, this build reads version {VERSION}"),
        (cbor2.dumps([VERSION, b"", b""]), "not enough values"),
        (altered(item1=b"SNDR"), "expected the magic SNDRNET"),
        (altered(item1="text"), "expected bytes, came str"),
        (altered(item2=b"123"), "multiple of element size"),
        (altered(item2=b""), "a mean and a std for each channel"),
        (altered(item3=bytes(8)), "positive stds"),
        (altered(item3=np.array([np.nan, 1], "<f4").tobytes()), "positive stds"),
        (altered(item4=["a"] * (CLASSES + 1)), "have a name"),
        (altered(item4=[7] * CLASSES), "expected a class name"),
        (altered(item4=["a" * 201] * CLASSES), "at most 200 characters"),
        (ENCODED + b"\0", "expected its one encoding|expected CBOR"),
        (bytes(LIMIT_BYTES + 1), f"at most {LIMIT_BYTES} are read"),
    ],
)
def test_what_is_no_package_is_refused(data, words):
    with pytest.raises(ModelFormatError, match=words):
        ModelPackage.from_bytes(data)


@given(data=st.data())
def test_a_damaged_package_is_refused_or_reads_as_itself(data):
    raw = bytearray(ENCODED[: data.draw(st.integers(0, len(ENCODED)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        package = ModelPackage.from_bytes(bytes(raw))
    except ModelFormatError:
        return
    assert isinstance(package.network, Network)
    assert package.to_bytes() == bytes(raw)
