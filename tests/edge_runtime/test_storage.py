from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanderling.edge_runtime.storage import MAGIC, Storage
from sanderling.models.errors import UsageError


@pytest.fixture
def storage(tmp_path):
    with Storage(tmp_path / "state") as opened:
        yield opened


def test_what_was_written_is_read_after_a_restart(tmp_path):
    with Storage(tmp_path) as before:
        before.write("memory", b"one")
        before.write("memory", b"two")
    with Storage(tmp_path) as after:
        assert after.read("memory") == b"two"
        assert after.read("other") is None
        assert not after.corrupt


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(content=st.binary(max_size=60), data=st.data())
def test_a_damaged_or_truncated_file_is_absent_and_counted(tmp_path, content, data):
    with Storage(tmp_path) as storage:
        storage.write("memory", content)
        path = tmp_path / "memory"
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans(), label="truncate"):
            raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        else:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        assert storage.read("memory") is None
        assert storage.corrupt == {"memory": 1}
        storage.write("memory", content)
        assert storage.read("memory") == content


def test_a_write_that_fails_leaves_what_was_there(storage, monkeypatch):
    storage.write("memory", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("memory", b"new")
    assert storage.read("memory") == b"old"


def test_a_crash_between_write_and_rename_leaves_what_was_there(tmp_path):
    script = (
        "import os, pathlib, signal, sys\n"
        "from sanderling.edge_runtime.storage import Storage\n"
        "storage = Storage(pathlib.Path(sys.argv[1]))\n"
        "storage.write('memory', b'old')\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write('memory', b'new')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -9
    assert (tmp_path / "memory.part").read_bytes().startswith(MAGIC)
    with Storage(tmp_path) as storage:
        assert storage.read("memory") == b"old"
        assert storage.names() == ("memory",)


def test_the_longest_unwritten_give_way(storage, tmp_path):
    for number in range(5):
        storage.write(f"model-{number}", bytes([number]))
        os.utime(tmp_path / "state" / f"model-{number}", ns=(number, number))
    storage.write("memory", b"stays")
    storage.write("model-1", b"again")
    storage.keep_newest("model-", 2, besides=frozenset({"model-0"}))
    assert set(storage.names()) == {"model-0", "model-1", "memory"}


def test_two_agents_do_not_share_a_directory(tmp_path):
    with Storage(tmp_path), pytest.raises(UsageError, match="in use by another agent"):
        Storage(tmp_path)
    with Storage(tmp_path):
        pass


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "\0"])
def test_names_stay_in_the_directory(storage, name):
    with pytest.raises(ValueError, match="plain file name"):
        storage.write(name, b"")
