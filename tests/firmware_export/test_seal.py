"""Sealing in C: the published answers, the committed vectors, and the same bytes as the reference for anything."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker import announcements, sealing
from sanderling.broker.counters import MAX_COUNTER, ReplayWindow
from sanderling.broker.keys import epoch_key
from sanderling.broker.sealing import Kind, Subject
from sanderling.firmware_export import counting, toolchain
from sanderling.firmware_export.targets import EMULATED
from sanderling.models.errors import ProtocolError
from sanderling.models.native import Native
from tests.broker.sealed import COORDINATOR, DEVICE, KEY, SIGNER, SUBJECT
from tests.broker.strategies import hashes, names, u32
from tests.firmware_export.memory_port import MemoryPort
from tests.firmware_export.tools import need

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sealing.json").read_text())
OK, MALFORMED, STORAGE_FAILED, NO_SPACE = 0, -1, -12, -17
HEAD_BYTES = announcements.OVERHEAD_BYTES
APPLICATION = Path(__file__).parent / "apps" / "seal"
of = bytes.fromhex


def status_name(runtime: Native, status: int) -> str:
    return runtime.ffi.string(runtime.lib.sl_status_name(status)).decode()


# --- the parts ---


@given(pieces=st.lists(st.binary(max_size=300), max_size=6))
def test_sha512_in_pieces_is_hashlibs(runtime: Native, pieces: list[bytes]) -> None:
    assert sha512(runtime, pieces) == hashlib.sha512(b"".join(pieces)).digest()


def test_sha512_around_the_ends_of_a_block(runtime: Native) -> None:
    for size in range(300):
        data = bytes(i % 251 for i in range(size))
        assert sha512(runtime, [data]) == hashlib.sha512(data).digest()


def sha512(runtime: Native, pieces: list[bytes]) -> bytes:
    state, digest = runtime.ffi.new("sl_sha512 *"), runtime.ffi.new("uint8_t[64]")
    runtime.lib.sl_sha512_begin(state)
    for piece in pieces:
        runtime.lib.sl_sha512_update(state, piece, len(piece))
    runtime.lib.sl_sha512_end(state, digest)
    return bytes(digest)


@pytest.fixture(scope="session")
def monocypher(runtime: Native) -> Any:
    """Monocypher's functions in the same library, as the runtime calls them."""
    runtime.ffi.cdef(
        """
        typedef struct { uint64_t counter; uint8_t key[32]; uint8_t nonce[8]; } crypto_aead_ctx;
        void crypto_aead_init_ietf(crypto_aead_ctx *ctx, const uint8_t key[32], const uint8_t nonce[12]);
        void crypto_aead_write(crypto_aead_ctx *ctx, uint8_t *cipher_text, uint8_t mac[16], const uint8_t *ad,
                               size_t ad_size, const uint8_t *plain_text, size_t text_size);
        void crypto_x25519(uint8_t shared[32], const uint8_t secret[32], const uint8_t peer[32]);
        void crypto_eddsa_reduce(uint8_t reduced[32], const uint8_t expanded[64]);
        int crypto_eddsa_check_equation(const uint8_t signature[64], const uint8_t key[32], const uint8_t hash[32]);
        """,
        override=True,
    )
    return runtime.lib


@pytest.mark.parametrize("case", VECTORS["published"], ids=lambda case: case["name"])
def test_published_answers(runtime: Native, monocypher: Any, case: dict[str, str]) -> None:
    out = runtime.ffi.new("uint8_t[200]")
    match case["kind"]:
        case "x25519":
            monocypher.crypto_x25519(out, of(case["secret"]), of(case["public"]))
            assert bytes(out)[:32].hex() == case["shared"]
        case "chacha20-poly1305":
            cipher, plain, aad = runtime.ffi.new("crypto_aead_ctx *"), of(case["plain"]), of(case["aad"])
            monocypher.crypto_aead_init_ietf(cipher, of(case["key"]), of(case["nonce"]))
            monocypher.crypto_aead_write(cipher, out, out + len(plain), aad, len(aad), plain, len(plain))
            assert bytes(out)[: len(plain) + 16].hex() == case["sealed"]
        case "ed25519":
            signature, public = of(case["signature"]), of(case["public"])
            digest = sha512(runtime, [signature[:32], public, of(case["message"])])
            monocypher.crypto_eddsa_reduce(out, digest)
            assert monocypher.crypto_eddsa_check_equation(signature, public, out) == 0
            monocypher.crypto_eddsa_reduce(out, sha512(runtime, [signature[:32], public, b"another"]))
            assert monocypher.crypto_eddsa_check_equation(signature, public, out) == -1


# --- keys and seals ---


class Key:
    """An sl_epoch_key, with the texts it points to."""

    def __init__(self, runtime: Native, pair_key: bytes, fields: dict[str, Any]) -> None:
        self.struct = runtime.ffi.new("sl_epoch_key *")
        texts = [fields[name].encode() for name in ("federation", "device", "run")]
        self._kept = [runtime.ffi.new("char[]", text) for text in texts]
        assert runtime.lib.sl_epoch_key_derive(self.struct, pair_key, *self._kept, fields["epoch"]) == OK


def pair_key(runtime: Native) -> bytes:
    pair = runtime.ffi.new("uint8_t[32]")
    coordinator = COORDINATOR.public_key().public_bytes_raw()
    assert runtime.lib.sl_pair_key(DEVICE.private_bytes_raw(), coordinator, pair) == OK
    return bytes(pair)


def c_key(runtime: Native, fields: dict[str, Any]) -> Key:
    return Key(runtime, pair_key(runtime), fields)


class AboutSubject:
    def __init__(self, runtime: Native, subject: dict[str, Any]) -> None:
        self._hash = runtime.ffi.from_buffer("uint8_t[]", of(subject["model_hash"]))
        self.struct = runtime.ffi.new(
            "sl_subject *",
            {
                "model_hash": self._hash,
                "round": subject["round"],
                "kind": subject["kind"],
                "codec": subject["codec"],
            },
        )


def fields_of(subject: Subject) -> dict[str, Any]:
    return {
        "model_hash": subject.model_hash.hex(),
        "round": subject.round,
        "kind": int(subject.kind),
        "codec": subject.codec,
    }


def seal(
    runtime: Native,
    key: Key,
    subject: AboutSubject,
    counter: int,
    message: bytes,
    room: int = 33,
    place: int = 0,
) -> tuple[int, bytes]:
    """Sealed in the buffer in which it lay, at `place`."""
    capacity = len(message) + room
    buffer, size = runtime.ffi.new("uint8_t[]", capacity + 1), runtime.ffi.new("uint32_t *")
    runtime.ffi.memmove(buffer + place, message, len(message))
    status = runtime.lib.sl_seal(
        key.struct, subject.struct, counter, buffer + place, len(message), buffer, capacity, size
    )
    assert buffer[capacity] == 0
    return status, bytes(runtime.ffi.buffer(buffer, size[0])) if status == OK else bytes(buffer)[
        : len(message)
    ]


def unseal(runtime: Native, key: Key, subject: AboutSubject, data: bytes) -> tuple[int, bytes, int]:
    buffer = runtime.ffi.new("uint8_t[]", data or b"\0")
    message, size = runtime.ffi.new("uint8_t **"), runtime.ffi.new("uint32_t *")
    counter = runtime.ffi.new("uint64_t *")
    status = runtime.lib.sl_unseal(key.struct, subject.struct, buffer, len(data), message, size, counter)
    if status != OK:
        assert bytes(buffer)[: len(data)] == data
        return status, b"", 0
    return status, bytes(runtime.ffi.buffer(message[0], size[0])), counter[0]


@pytest.mark.parametrize("case", VECTORS["keys"], ids=lambda case: f"epoch {case['epoch']}")
def test_keys_of_the_vectors(runtime: Native, case: dict[str, Any]) -> None:
    assert pair_key(runtime).hex() == case["pair_key"]
    key = c_key(runtime, case).struct
    assert bytes(key.secret).hex() == case["secret"]
    assert bytes(key.base_iv).hex() == case["base_iv"]
    assert bytes(key.tag).hex() == case["tag"]


def test_a_coordinators_key_of_low_order_is_refused(runtime: Native) -> None:
    pair = runtime.ffi.new("uint8_t[32]")
    status = runtime.lib.sl_pair_key(DEVICE.private_bytes_raw(), bytes(32), pair)
    assert (status_name(runtime, status), bytes(pair)) == ("not_authentic", bytes(32))


def test_a_name_that_is_none_is_refused(runtime: Native) -> None:
    key = runtime.ffi.new("sl_epoch_key *")
    assert runtime.lib.sl_epoch_key_derive(key, bytes(32), b"f", b"d", b"r" * 65, 0) == MALFORMED


@pytest.mark.parametrize("case", VECTORS["sealed"], ids=lambda case: f"counter {case['counter']}")
def test_seals_of_the_vectors(runtime: Native, case: dict[str, Any]) -> None:
    key, subject = c_key(runtime, VECTORS["keys"][case["key"]]), AboutSubject(runtime, case)
    message, data = of(case["message"]), of(case["data"])
    assert seal(runtime, key, subject, case["counter"], message) == (OK, data)
    assert unseal(runtime, key, subject, data) == (OK, message, case["counter"])


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_refusals_of_the_vectors(runtime: Native, case: dict[str, Any]) -> None:
    status, _, _ = unseal(
        runtime, c_key(runtime, VECTORS["keys"][0]), AboutSubject(runtime, case), of(case["data"])
    )
    # The round is half of the key's id: C says so, the coordinator names the round.
    expected = {"wrong_round": "unknown_key"}.get(case["reason"], case["reason"])
    assert status_name(runtime, status) == expected


@given(
    pair=st.binary(min_size=32, max_size=32),
    texts=st.tuples(names, names, names),
    epoch=u32,
    subject=st.builds(
        Subject, kind=st.sampled_from(Kind), round=u32, model_hash=hashes, codec=st.integers(0, 255)
    ),
    counter=st.integers(1, MAX_COUNTER),
    message=st.binary(max_size=300),
    place=st.integers(0, 33),
)
def test_any_seal_is_the_references(
    runtime: Native,
    pair: bytes,
    texts: tuple[str, str, str],
    epoch: int,
    subject: Subject,
    counter: int,
    message: bytes,
    place: int,
) -> None:
    fields = dict(zip(("federation", "device", "run"), texts, strict=True)) | {"epoch": epoch}
    key = Key(runtime, pair, fields)
    reference = epoch_key(pair, **fields)
    data = sealing.seal(message, reference, subject, counter)
    about = AboutSubject(runtime, fields_of(subject))
    assert seal(runtime, key, about, counter, message, place=place) == (OK, data)
    assert unseal(runtime, key, about, data) == (OK, message, counter)


@given(message=st.binary(max_size=80), data=st.data())
def test_a_flipped_bit_is_refused(runtime: Native, message: bytes, data: st.DataObject) -> None:
    good = sealing.seal(message, KEY, SUBJECT, 300)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    key, subject = (
        c_key(runtime, VECTORS["keys"][1] | {"epoch": 1}),
        AboutSubject(runtime, fields_of(SUBJECT)),
    )
    assert unseal(runtime, key, subject, bytes(bad))[0] < 0
    assert unseal(runtime, key, subject, good)[:2] == (OK, message)


@given(data=st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: b"\x10" + rest))
def test_arbitrary_bytes_are_refused(runtime: Native, data: bytes) -> None:
    key, subject = c_key(runtime, VECTORS["keys"][0]), AboutSubject(runtime, fields_of(SUBJECT))
    assert unseal(runtime, key, subject, data)[0] < 0


def test_too_little_room_or_an_impossible_counter_leaves_the_message_as_it_was(runtime: Native) -> None:
    key, subject = c_key(runtime, VECTORS["keys"][0]), AboutSubject(runtime, fields_of(SUBJECT))
    assert seal(runtime, key, subject, 1, b"update", room=23)[0] == OK
    assert seal(runtime, key, subject, 1, b"update", room=22) == (NO_SPACE, b"update")
    assert seal(runtime, key, subject, 1, b"", room=3) == (NO_SPACE, b"")
    assert seal(runtime, key, subject, 0, b"update") == (NO_SPACE, b"update")
    assert seal(runtime, key, subject, MAX_COUNTER + 1, b"update") == (NO_SPACE, b"update")


# --- announcements ---


class Check:
    """An announcement that comes in pieces."""

    def __init__(self, runtime: Native, data: bytes, case: dict[str, Any], newest: int = 0) -> None:
        self.runtime, self.data, self.newest, self.payload = runtime, data, newest, b""
        self._federation = runtime.ffi.new("char[]", case["federation"].encode())
        self._key = runtime.ffi.from_buffer("uint8_t[]", of(case["public"]))
        self._check = runtime.ffi.new("sl_announcement *")
        status = runtime.lib.sl_announcement_begin(
            self._check, self._federation, case["kind"], self._key, len(data)
        )
        assert status == OK

    def feed(self, piece: bytes) -> int:
        ffi = self.runtime.ffi
        owned = ffi.new("uint8_t[]", piece or b"\0")
        payload, size = ffi.new("const uint8_t **"), ffi.new("uint32_t *")
        status = self.runtime.lib.sl_announcement_feed(self._check, owned, len(piece), payload, size)
        self.payload += bytes(ffi.buffer(payload[0], size[0])) if size[0] else b""
        return int(status)

    def end(self) -> tuple[str, int]:
        sequence = self.runtime.ffi.new("uint64_t *")
        status = self.runtime.lib.sl_announcement_end(self._check, self.newest, sequence)
        return status_name(self.runtime, status), sequence[0]

    def in_pieces_of(self, size: int) -> tuple[str, int]:
        for start in range(0, len(self.data), size):
            self.feed(self.data[start : start + size])
        return self.end()


PLAN = {"federation": "watch", "kind": 1, "public": SIGNER.public_key().public_bytes_raw().hex()}


@pytest.mark.parametrize("size", [1, 64, 71, 1 << 20])
@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: f"sequence {case['sequence']}")
def test_announcements_of_the_vectors(runtime: Native, case: dict[str, Any], size: int) -> None:
    check = Check(runtime, of(case["data"]), case, newest=case["sequence"])
    assert check.in_pieces_of(size) == ("ok", case["sequence"])
    assert check.payload == of(case["data"])[HEAD_BYTES:]


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("case", VECTORS["signed_refused"], ids=lambda case: case["name"])
def test_refused_announcements_of_the_vectors(runtime: Native, case: dict[str, Any], size: int) -> None:
    assert Check(runtime, of(case["data"]), case, newest=1000).in_pieces_of(size) == (case["reason"], 0)


def test_a_plan_of_the_largest_size_is_checked_in_packets(runtime: Native) -> None:
    payload = bytes(i % 255 for i in range(272_128))
    data = announcements.sign(payload, SIGNER, federation="watch", kind=announcements.Kind.PLAN, sequence=7)
    check = Check(runtime, data, PLAN)
    assert check.in_pieces_of(256) == ("ok", 7)
    assert check.payload == payload
    assert runtime.ffi.sizeof("sl_announcement") <= 336


@given(
    payload=st.binary(max_size=300),
    sequence=st.integers(1, MAX_COUNTER),
    size=st.integers(1, 400),
    bit=st.none() | st.integers(0, 8 * (300 + HEAD_BYTES) - 1),
)
def test_any_announcement_is_judged_as_the_reference_does(
    runtime: Native, payload: bytes, sequence: int, size: int, bit: int | None
) -> None:
    data = bytearray(
        announcements.sign(
            payload, SIGNER, federation="watch", kind=announcements.Kind.PLAN, sequence=sequence
        )
    )
    if bit is not None:
        data[bit // 8 % len(data)] ^= 1 << bit % 8
    status, found = Check(runtime, bytes(data), PLAN).in_pieces_of(size)
    try:
        expected = announcements.verify(
            bytes(data), SIGNER.public_key(), federation="watch", kind=announcements.Kind.PLAN
        )
    except ProtocolError as error:
        assert status == error.reason
    else:
        assert (status, found) == ("ok", expected.sequence)


def test_more_or_fewer_bytes_than_announced_are_refused(runtime: Native) -> None:
    good = of(VECTORS["signed"][1]["data"])
    more = Check(runtime, good, PLAN)
    assert more.feed(good + b"\0") == MALFORMED
    assert more.end()[0] == "malformed"
    fewer = Check(runtime, good, PLAN)
    assert fewer.feed(good[:-1]) == OK
    assert fewer.end()[0] == "malformed"


# --- nonces, and the guard ---


class Board:
    """A guarded node whose two numbers are one record in storage, with power that can be cut."""

    def __init__(self, runtime: Native, memory: MemoryPort) -> None:
        self.runtime, self.memory = runtime, memory
        ffi, lib = runtime.ffi, runtime.lib
        self._record = ffi.new("sl_record *")
        assert lib.sl_record_open(self._record, memory.port, 2) == OK
        self._texts = [ffi.new("char[]", text) for text in (b"watch", b"pi-3", b"k3v9q2ax")]
        self.sealing = ffi.new("sl_sealing *")
        self.sealing.federation, self.sealing.device = self._texts[:2]
        self.sealing.pair_key = list(pair_key(runtime))
        self.sealing.coordinator = list(SIGNER.public_key().public_bytes_raw())
        self._keep = ffi.callback("int32_t(void *, uint64_t, uint64_t)", self._kept)
        self.sealing.keep = self._keep
        if self._record.size == 0:  # enrolment
            assert self._keep(ffi.NULL, 0, 0) == OK
        kept = ffi.new("uint8_t[16]")
        assert lib.sl_record_read(self._record, 0, kept, 16) == OK
        mark, newest = (int.from_bytes(bytes(kept)[at : at + 8], "big") for at in (0, 8))
        self.sealing.nonces.used = self.sealing.nonces.mark = mark
        self.sealing.newest = newest
        self.guard = ffi.new("sl_guard *")
        lib.sl_sealing_guard(self.sealing, self.guard)
        self._subject = AboutSubject(runtime, fields_of(SUBJECT))

    def _kept(self, _context: Any, mark: int, newest: int) -> int:
        lib, content = self.runtime.lib, mark.to_bytes(8, "big") + newest.to_bytes(8, "big")
        for step in (
            lambda: lib.sl_record_begin(self._record),
            lambda: lib.sl_record_append(self._record, content, 16),
            lambda: lib.sl_record_commit(self._record),
        ):
            if step() != OK:
                return STORAGE_FAILED
        return OK

    def seal(self, message: bytes) -> tuple[int, bytes]:
        ffi = self.runtime.ffi
        buffer, size = ffi.new("uint8_t[256]"), ffi.new("uint32_t *")
        run, subject = self._texts[2], self._subject.struct
        status = self.guard.seal(
            self.guard.context, run, 1, subject, message, len(message), buffer, 256, size
        )
        return status, bytes(ffi.buffer(buffer, size[0]))

    def hear(self, data: bytes) -> int:
        ffi, guard = self.runtime.ffi, self.guard
        payload, size = ffi.new("const uint8_t **"), ffi.new("uint32_t *")
        owned = ffi.new("uint8_t[]", data)
        assert guard.begin(guard.context, 1, len(data)) == OK
        guard.feed(guard.context, owned, len(data), payload, size)
        return int(guard.end(guard.context))


def announced(sequence: int) -> bytes:
    return announcements.sign(
        b"plan", SIGNER, federation="watch", kind=announcements.Kind.PLAN, sequence=sequence
    )


def test_a_guarded_nodes_updates_open_at_the_coordinator(runtime: Native) -> None:
    board, window = Board(runtime, MemoryPort(runtime)), ReplayWindow()
    for number in range(1, 4):
        status, data = board.seal(b"update")
        assert status == OK
        message, window = sealing.unseal(data, KEY, SUBJECT, window)
        assert (message, window.highest) == (b"update", number)


def test_no_nonce_is_used_twice_wherever_the_power_is_cut(runtime: Native) -> None:
    # 130 seals take three reservations.
    memory = MemoryPort(runtime)
    start = Board(runtime, memory)
    contents, before = copy.deepcopy(memory.contents), memory.changes
    for _ in range(130):
        assert start.seal(b"update")[0] == OK
    for cut in range(memory.changes - before + 1):
        torn = MemoryPort(runtime, copy.deepcopy(contents), changes_left=cut)
        used = counters_of(Board(runtime, torn), 130)
        used += counters_of(Board(runtime, MemoryPort(runtime, torn.contents)), 130)
        assert len(set(used)) == len(used)
        assert used == sorted(used)
        assert len(used) >= 130


def counters_of(board: Board, count: int) -> list[int]:
    """Of the updates sent until storage fails; then the node abstains."""
    found = []
    for _ in range(count):
        status, data = board.seal(b"update")
        if status != OK:
            assert status == STORAGE_FAILED
            break
        found.append(sealing.read_header(data, "pi-3").counter)
    return found


def test_no_announcement_goes_back_even_after_a_restart(runtime: Native) -> None:
    memory = MemoryPort(runtime)
    board = Board(runtime, memory)
    assert [board.hear(announced(n)) for n in (5, 5, 9)] == [OK, OK, OK]
    assert status_name(runtime, board.hear(announced(8))) == "older_announcement"
    restarted = Board(runtime, memory)
    assert status_name(runtime, restarted.hear(announced(8))) == "older_announcement"
    assert restarted.hear(announced(9)) == OK


def test_a_plan_whose_sequence_cannot_be_stored_is_not_acted_on(runtime: Native) -> None:
    memory = MemoryPort(runtime)
    Board(runtime, memory)
    board = Board(runtime, MemoryPort(runtime, memory.contents, changes_left=0))
    assert board.hear(announced(5)) == STORAGE_FAILED
    assert board.sealing.newest == 0


# --- on the core itself ---


@pytest.mark.qemu
def test_a_cortex_m4_makes_the_same_bytes_at_a_known_cost(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "qemu-system-arm", "cmake", "ninja")
    (board,) = (each for each in EMULATED if each.name == "mps2-an386")
    tables = tmp_path / "vectors"
    tables.mkdir()
    (tables / "seal_vectors.h").write_text(c_vectors())
    programs = toolchain.build(board, tmp_path / "build", networks=[tables], applications=[APPLICATION])
    run, counts = counting.count(programs["seal-vectors"], board)
    assert run.status == 0, "1 the pair's key, 2 the seal, 3 the plan differs; 4 stack"
    pair, _, seals, _, verifies = counts
    assert pair < 2_800_000  # instructions; 2,536,000 when this was written
    assert seals < 50_000  # 206 bytes, the epoch's key with it; 33,700 with BLAKE2b unrolled
    assert verifies < 2_200_000  # a plan of 700 bytes; 1,989,000


def c_vectors() -> str:
    key, sealed = VECTORS["keys"][0], VECTORS["sealed"][1]
    plan = announcements.sign(
        bytes(700), SIGNER, federation="watch", kind=announcements.Kind.PLAN, sequence=9
    )
    arrays = {
        "device_secret": of(key["device_secret"]),
        "coordinator": of(key["coordinator_public"]),
        "pair_key": of(key["pair_key"]),
        "model_hash": of(sealed["model_hash"]),
        "message": of(sealed["message"]),
        "sealed": of(sealed["data"]),
        "signer": SIGNER.public_key().public_bytes_raw(),
        "plan": plan,
    }
    numbers = {
        "SEALED_ROUND": sealed["round"],
        "SEALED_EPOCH": key["epoch"],
        "SEALED_COUNTER": sealed["counter"],
        "PLAN_SEQUENCE": 9,
    }
    lines = [f"enum {{ {', '.join(f'{name} = {value}' for name, value in numbers.items())} }};"]
    lines += [
        f"static const uint8_t {name}[] = {{{', '.join(map(str, data))}}};" for name, data in arrays.items()
    ]
    return "\n".join(lines) + "\n"
