"""Building for each board, and what its port does in QEMU."""

import socket
import struct
import zlib
from pathlib import Path

import pytest

from sanderling.firmware_export import toolchain
from sanderling.firmware_export.targets import FOLDER, TARGETS, Target, target
from sanderling.models.errors import MissingError, SanderlingError, UsageError
from tests.firmware_export.tools import BENCH, need


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["do=draw"], 0),
        (["do=draw", "random=/nowhere/to/be/found"], 81),
        (["do=wait", "duration=30"], 0),
        (["do=used-stack"], 0),
        (["do=fault"], 70),
        ([], 70),
        (["do=x"], 71),
    ],
)
def test_program_ends_with_its_status(bench: tuple, arguments: list[str], status: int) -> None:
    board, program = bench
    ended = toolchain.run(program, board, arguments=arguments, timeout_s=30)
    assert (ended.status, ended.errors) == (status, "")


@pytest.mark.qemu
def test_link_carries_more_than_its_ring_holds_and_loses_nothing(bench: tuple) -> None:
    board, program = bench
    sent = bytes(i * 7 % 256 for i in range(3000))
    with (
        toolchain.emulate(program.elf, board, arguments=["do=echo", f"size={len(sent)}"]) as emulator,
        socket.create_connection(("127.0.0.1", emulator.link_port), timeout=20) as link,
    ):
        link.sendall(sent)
        received = b""
        while len(received) < len(sent):
            received += link.recv(4096)
        assert received == sent
        assert emulator.process.wait(20) == 0


@pytest.mark.qemu
def test_storage_outlives_a_loss_of_power_at_every_write(bench: tuple, tmp_path: Path) -> None:
    board, program = bench

    def count(*more: str) -> int:
        arguments = ["do=count", f"storage={tmp_path / 'storage'}", *more]
        return toolchain.run(program, board, arguments=arguments, timeout_s=30).status

    assert [count(), count()] == [1, 2]
    for change in (1, 2, 3):  # the erasure, the content, the header
        assert count(f"storage_fails={change}") == 99
        assert count() == 2 + change, "the record before the loss counts"


def sample(count: int = 3, flip: int = 0) -> bytes:
    body = struct.pack("<2sBHH", b"SL", 1, 2, count) + struct.pack("<3f", 10.0, 20.0, 30.0)
    return body + struct.pack("<I", zlib.crc32(body) ^ flip)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("sent", "status", "log"),
    [
        (sample(), 1 + 2 + 60, "ok"),
        (sample(flip=1), 80, "malformed"),
        (b"x" + sample(), 80, "malformed"),
        (sample(count=4), 80, "wrong_dimension"),
        (sample()[:-1], 80, "timeout"),
    ],
)
def test_samples_come_in_by_the_log_s_port(bench: tuple, sent: bytes, status: int, log: str) -> None:
    board, program = bench
    with (
        toolchain.emulate(program.elf, board, arguments=["do=sample"]) as emulator,
        socket.create_connection(("127.0.0.1", emulator.log_port), timeout=20) as port,
    ):
        port.sendall(sent)
        assert emulator.process.wait(20) == status
        assert emulator.log == f"{log}\n"


@pytest.mark.qemu
def test_a_program_that_does_not_end_is_stopped(bench: tuple) -> None:
    board, program = bench
    with pytest.raises(SanderlingError, match=r"did not end within 0\.5 s"):
        toolchain.run(program, board, arguments=["do=echo", "size=1"], timeout_s=0.5)


@pytest.mark.parametrize("name", ["nucleo-f446re", "nano33ble", "host"])
def test_other_ports_compile(name: str, tmp_path: Path) -> None:
    need("cmake", "ninja", *([] if name == "host" else ["arm-none-eabi-gcc"]))
    (tmp_path / "none").mkdir()
    programs = toolchain.build(
        target(name), tmp_path / "b", networks=[tmp_path / "none"], applications=[BENCH]
    )
    assert 0 < programs["bench-none"].flash_bytes < 16384


@pytest.mark.parametrize(
    "core", [each for each in TARGETS.values() if not each.has_port], ids=lambda t: t.name
)
def test_the_library_compiles_for_every_core(core: Target, tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    monocypher = toolchain.source(toolchain.MONOCYPHER)
    toolchain.configure_and_build(
        toolchain.RUNTIME,
        tmp_path,
        core,
        {"SANDERLING_MONOCYPHER": str(monocypher), "SANDERLING_OPTIMIZE": "speed"},
    )
    assert (tmp_path / "libsanderling.a").stat().st_size > 1000


@pytest.mark.parametrize(("memory", "region"), [("SRAM", "RAM"), ("FLASH", "FLASH")])
def test_a_program_too_large_for_its_memory_is_not_linked(memory: str, region: str, tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    (tmp_path / "none").mkdir()
    with pytest.raises(SanderlingError, match=rf"region `{region}' overflowed by \d+ bytes"):
        toolchain.build(
            target("nano33ble"),
            tmp_path / "b",
            networks=[tmp_path / "none"],
            applications=[BENCH],
            settings={f"SANDERLING_{memory}": "1024"},
        )


def test_a_core_alone_has_no_program(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cortex-m4f has no port of ours"):
        toolchain.build(target("cortex-m4f"), tmp_path, networks=[], applications=[])


def test_an_argument_with_a_space_is_refused(tmp_path: Path) -> None:
    program = toolchain.Program(elf=tmp_path / "elf", flash_bytes=0, sram_bytes=0)
    with pytest.raises(UsageError, match="hold a space"):
        toolchain.run(program, target("mps2-an386"), arguments=["storage=/my files/x"])


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"unknown target 'arduino'; expected one of mps2-an385, .*cortex-m55"
    ):
        target("arduino")


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="apt-get install gcc-arm-none-eabi picolibc-arm-none-eabi"):
        toolchain.find("arm-none-eabi-gcc")


def test_cmake_knows_every_board() -> None:
    text = (FOLDER / "boards" / "boards.cmake").read_text()
    for each in TARGETS.values():
        assert not each.has_port or f'"{each.name}"' in text or each.emulated_memory, each.name
        assert each.toolchain_file is None or each.toolchain_file.exists()
