"""A model fetched in chunks by C: what the coordinator cuts, over losses of power, damage and a changed mind."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker.chunks import chunk_size, cut
from sanderling.broker.messages import MAX_CHUNKS, ModelBody
from sanderling.broker.topics import Topics
from sanderling.models.native import Native
from sanderling.models.updates import GlobalModel

OK, PENDING, MALFORMED, TOO_LARGE, UNKNOWN_VERSION = 0, 1, -1, -2, -3
WRONG_NETWORK, WRONG_MODEL, WRONG_DIMENSION, UNSUPPORTED, STORAGE_FAILED, NO_SPACE, OUT_OF_ORDER = (
    -6,
    -7,
    -8,
    -9,
    -12,
    -17,
    -20,
)
NETWORK = hashlib.sha256(b"network").digest()


def model_of(dimension: int, version: int = 3, seed: int = 0) -> GlobalModel:
    theta = np.random.default_rng(seed).integers(-(2**15), 2**15, dimension).astype(np.int32)
    return GlobalModel(version=version, backbone_hash=NETWORK, theta=theta)


def theta_of(model: GlobalModel) -> bytes:
    return model.theta.astype("<i2").tobytes()


class Device:
    """A download and the storage under it, which outlives a `boot`."""

    def __init__(self, runtime: Native, model: GlobalModel, capacity: int = 256) -> None:
        self.ffi, self.lib = runtime.ffi, runtime.lib
        self.model, self.capacity = model, capacity
        self.stored: list[bytes] = []
        self.boot()

    def boot(self) -> int:
        self.download = self.ffi.new("sl_download *")
        self._buffer = self.ffi.new("uint8_t[]", self.capacity)
        status = self.begin()
        return self.resume(len(self.stored)) if self.stored else status

    def begin(self, *, network: bytes = NETWORK, last_version: int = 0, **changes: Any) -> int:
        reference = self.ffi.new("sl_model_reference *")
        reference.version = self.model.version
        reference.body_bytes = len(ModelBody.of(self.model).encode())
        reference.model_hash, reference.network_hash = self.model.model_hash, self.model.backbone_hash
        for name, value in changes.items():
            setattr(reference, name, value)
        return int(
            self.lib.sl_download_begin(
                self.download,
                reference,
                network,
                2 * self.model.theta.size,
                last_version,
                self._buffer,
                self.capacity,
            )
        )

    def resume(self, pieces: int, broken_at: int | None = None) -> int:
        stored = b"".join(self.stored)

        @self.ffi.callback("sl_status(void *, uint32_t, uint8_t *, uint32_t)")
        def read(_context: Any, offset: int, target: Any, size: int) -> int:
            if broken_at is not None and offset >= broken_at:
                return STORAGE_FAILED
            assert offset + size <= len(stored)
            self.ffi.memmove(target, stored[offset : offset + size], size)
            return OK

        return int(self.lib.sl_download_resume(self.download, pieces, read, self.ffi.NULL))

    def topic(self) -> str:
        topic = self.ffi.new("char[192]")
        assert self.lib.sl_download_topic(self.download, b"lab", topic, 192) == OK
        return self.ffi.string(topic).decode()

    def feed(self, message: bytes, pieces: int = 70) -> int:
        status = self.lib.sl_download_feed(self.download, 0, 0, b"", 0) if not message else None
        for offset in range(0, len(message), pieces):
            part = message[offset : offset + pieces]
            status = self.lib.sl_download_feed(self.download, len(message), offset, part, len(part))
            if status not in (OK, PENDING):
                break
        return int(status)

    def store(self) -> int:
        download = self.download
        assert download.piece_offset == len(b"".join(self.stored))
        self.stored.append(bytes(self.ffi.buffer(download.piece, download.piece_size)))
        return int(self.lib.sl_download_stored(download))


def retained(model: GlobalModel, size: int) -> dict[str, bytes]:
    topics = Topics("lab")
    return {topics.chunk(model.model_hash, size, c.index): c.encode() for c in cut(model, size)}


@settings(max_examples=60)
@given(
    dimension=st.integers(1, 3000),
    capacity=st.integers(256, 3000),
    power=st.lists(st.booleans(), max_size=40),
    pieces=st.integers(1, 300),
)
def test_a_model_arrives_whole_though_power_is_lost_between_chunks(
    runtime: Native, dimension: int, capacity: int, power: list[bool], pieces: int
) -> None:
    model = model_of(dimension)
    device, size = Device(runtime, model, capacity), chunk_size(capacity)
    broker, status, lost = retained(model, size), PENDING, iter(power)
    fetched = 0
    while status == PENDING:
        assert device.feed(broker[device.topic()], pieces) == OK
        fetched += 1
        status = device.store()
        if next(lost, False):
            status = device.boot()
    assert status == OK and b"".join(device.stored) == theta_of(model)
    assert fetched == len(broker), "no chunk is fetched twice"
    assert runtime.lib.sl_download_piece_bytes(capacity) == size - 32


@pytest.mark.parametrize("size", [0, 1, 255])
def test_a_buffer_below_the_smallest_chunk_is_refused(runtime: Native, size: int) -> None:
    assert chunk_size(size) is None
    assert runtime.lib.sl_download_piece_bytes(size) == 0
    device = Device(runtime, model_of(5))
    device.capacity = size
    assert device.begin() == NO_SPACE


@pytest.mark.parametrize("size", [256, 257, 511, 512, 1024, 65535, 65536, 2**20, 2**32 - 1])
def test_both_sides_choose_the_same_chunk_size(runtime: Native, size: int) -> None:
    assert runtime.lib.sl_download_piece_bytes(size) == chunk_size(size) - 32


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_fetched(runtime: Native) -> None:
    device = Device(runtime, model_of(500))
    assert device.begin(network=bytes(32)) == WRONG_NETWORK
    assert device.begin(body_bytes=len(ModelBody.of(device.model).encode()) + 2) == WRONG_DIMENSION
    assert device.begin(version=2, last_version=3) == WRONG_MODEL
    assert device.begin(version=3, last_version=3) == OK
    most = 224 * MAX_CHUNKS // 2
    assert len(cut(model_of(most), 256)) == MAX_CHUNKS and cut(model_of(most + 1), 256) == ()
    device.model = model_of(most + 1)
    assert device.begin() == UNSUPPORTED
    device.model = model_of(most)
    assert device.begin() == OK


def test_the_body_size_is_known_for_every_version(runtime: Native) -> None:
    for version in (0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1):
        for dimension in (1, 11, 12, 127, 128, 32767, 32768):
            device = Device(runtime, model_of(dimension, version=version), capacity=2048)
            assert device.begin() == OK


def bad_messages(model: GlobalModel) -> list[tuple[str, bytes, int]]:
    chunks = cut(model, 256)
    first, second = chunks[0].encode(), chunks[1].encode()
    other = cut(model_of(500, seed=9), 256)[0].encode()
    version, index, count, piece, check = cbor2.loads(first)

    def packed(*items: object) -> bytes:
        return cbor2.dumps(list(items), canonical=True)

    return [
        ("cleared", b"", PENDING),
        ("the next but one", second, OUT_OF_ORDER),
        ("another model's", other, MALFORMED),
        ("too large", bytes(257), TOO_LARGE),
        ("another version", packed(2, index, count, piece, check), UNKNOWN_VERSION),
        ("another count", packed(version, index, count + 1, piece, check), MALFORMED),
        ("an index beyond the count", packed(version, count, count, piece, check), MALFORMED),
        ("a short piece", packed(version, index, count, piece[:-1], check), MALFORMED),
        ("a short check", packed(version, index, count, piece, check[:7]), MALFORMED),
        ("a field too many", packed(version, index, count, piece, check, 0), MALFORMED),
        ("a byte after it", first + b"\0", MALFORMED),
        ("cut off", first[:-1], MALFORMED),
        ("a map", b"\xa5" + first[1:], MALFORMED),
        ("a number longer than it need be", first[:1] + b"\x18\x01" + first[2:], MALFORMED),
        *((f"a flipped bit in byte {i}", _flipped(first, i), MALFORMED) for i in (20, 100, len(first) - 1)),
    ]


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_a_bad_chunk_is_refused_and_the_same_one_is_still_wanted(runtime: Native) -> None:
    model = model_of(500)
    broker = retained(model, 256)
    for name, message, expected in bad_messages(model):
        device = Device(runtime, model)
        assert device.feed(message) == expected, name
        assert runtime.lib.sl_download_stored(device.download) == OUT_OF_ORDER
        assert device.feed(broker[device.topic()]) == OK, name
        assert device.feed(broker[device.topic()]) == OUT_OF_ORDER, "it is to be stored first"
        assert device.store() == PENDING
        assert (device.feed(message) == OK) == (name == "the next but one"), name


def test_a_message_that_broke_off_or_lacks_a_piece_is_not_taken(runtime: Native) -> None:
    device = Device(runtime, model_of(500))
    message = retained(device.model, 256)[device.topic()]

    def feed(offset: int, end: int) -> int:
        part = message[offset:end]
        return int(device.lib.sl_download_feed(device.download, len(message), offset, part, len(part)))

    assert feed(0, 100) == PENDING
    assert feed(150, 250) == OUT_OF_ORDER
    assert feed(0, 100) == PENDING  # the connection was lost: it comes again from its beginning
    assert feed(100, len(message)) == OK


def test_storage_that_went_bad_costs_the_download_not_the_model(runtime: Native) -> None:
    model = model_of(500)
    device, broker = Device(runtime, model), retained(model, 256)
    for _ in range(4):
        device.feed(broker[device.topic()])
        device.store()
    device.stored[2] = _flipped(device.stored[2], 7)
    assert device.boot() == PENDING
    device.feed(broker[device.topic()])
    assert device.store() == WRONG_MODEL
    device.stored.clear()
    assert device.topic() == Topics("lab").chunk(model.model_hash, 256, 0)
    status = PENDING
    while status == PENDING:
        assert device.feed(broker[device.topic()]) == OK
        status = device.store()
    assert status == OK and b"".join(device.stored) == theta_of(model)


def test_storage_that_cannot_be_read_begins_again(runtime: Native) -> None:
    device = Device(runtime, model_of(500))
    device.stored = [bytes(224)] * 3
    assert device.resume(3, broken_at=300) == STORAGE_FAILED
    assert device.topic().endswith("/256/0")
    assert device.resume(99) == MALFORMED
    assert device.resume(0) == PENDING


def test_a_whole_model_that_is_stored_is_known_again(runtime: Native) -> None:
    model = model_of(500)
    device = Device(runtime, model)
    device.stored = [chunk.piece for chunk in cut(model, 256)]
    assert device.boot() == OK
    device.stored[0] = _flipped(device.stored[0], 0)
    assert device.boot() == WRONG_MODEL


@given(data=st.binary(max_size=256), pieces=st.integers(1, 100))
def test_no_bytes_are_taken_for_a_chunk(runtime: Native, data: bytes, pieces: int) -> None:
    device = Device(runtime, model_of(500))
    assert device.feed(data, pieces) in (PENDING, MALFORMED, UNKNOWN_VERSION, OUT_OF_ORDER)
    assert not device.download.piece
