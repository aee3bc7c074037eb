"""The C runtime builds without a warning, and Python reads its headers."""

from sanderling.firmware_export import native
from sanderling.models.native import Native


def test_every_status_has_a_name(runtime: Native) -> None:
    statuses = runtime.ffi.typeof("enum sl_statuses").relements
    names = {
        value: runtime.ffi.string(runtime.lib.sl_status_name(value)).decode() for value in statuses.values()
    }
    assert {f"SL_{name.upper()}": value for value, name in names.items()} == statuses


def test_wiping_overwrites_what_it_is_told_to(runtime: Native) -> None:
    secret = runtime.ffi.new("uint8_t[8]", b"password")
    runtime.lib.sl_wipe(secret, 5)
    assert bytes(secret) == b"\0\0\0\0\0ord"


def test_a_library_is_built_once(runtime: Native) -> None:
    first = native.library()
    before = first.stat().st_mtime_ns
    assert native.library() == first
    assert first.stat().st_mtime_ns == before
