"""`sanderling native build`: where the library comes to lie, and what is said without a compiler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sanderling.cli import main
from sanderling.firmware_export import native
from sanderling.models.native import open_library


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(native, "default_folder", lambda: tmp_path / "runtime")
    return tmp_path / "runtime"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_library_lies_with_its_headers_and_is_replaced_as_a_whole(folder, capsys):
    for _ in range(2):
        assert main(["native", "build", "--json"]) == 0
        path = Path(json.loads(capsys.readouterr().out)["library"])
        assert path == folder / "libsanderling.so"
        opened = open_library(path, sorted((folder / "include" / "sanderling").glob("*.h")))
        assert opened.ffi.string(opened.lib.sl_status_name(0)) == b"ok"
    assert len([entry for entry in folder.parent.iterdir() if entry.is_dir() and not entry.is_symlink()]) == 1


def test_without_a_compiler_it_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["native", "build", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "MissingError"
    assert "apt-get install gcc" in error["message"]
    assert not folder.exists()
