"""The C runtime as the agent's exact backend: preferred where it is built, held against the reference, left where it fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sanderling.edge_runtime import backends
from sanderling.edge_runtime.backends import choose, open_backend, open_chosen
from sanderling.firmware_export import native
from sanderling.models.errors import MissingError, SanderlingError
from sanderling.models.native import NativeNetwork, default_library, open_default
from sanderling.models.tail import dense_head


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return native.install(tmp_path_factory.mktemp("native") / "runtime")


@pytest.fixture
def built(library, monkeypatch) -> Path:
    monkeypatch.setenv("SANDERLING_NATIVE", str(library))
    return library


@pytest.fixture(scope="module")
def inputs(package, make) -> np.ndarray:
    return package.preprocessing.quantize_input(make.windows(64, seed=5)[0])


def test_features_are_the_references(network, inputs, built):
    head = dense_head(network)
    ours, reference = open_backend("native", network, head), open_backend("reference", network, head)
    assert (ours.name, ours.exact) == ("native", True)
    np.testing.assert_array_equal(ours.features(inputs), reference.features(inputs))
    assert ours.features(inputs[:0]).shape == (0, head.features)


def test_it_is_taken_for_exact_arithmetic_and_the_log_says_so(network, built):
    lines: list[str] = []
    backend = open_chosen("exact", "auto", network, dense_head(network), lines.append)
    assert backend.name == "native"
    assert lines == ["backend native: the plan asks for exact arithmetic"]


@pytest.mark.parametrize(
    ("arithmetic", "preference", "installed", "expected"),
    [
        ("exact", "auto", ("litert", "native", "reference"), "native"),
        ("exact", "litert", ("litert", "native", "reference"), "native"),
        ("exact", "reference", ("litert", "native", "reference"), "reference"),
        ("exact", "auto", ("litert", "reference"), "reference"),
        ("fast", "auto", ("litert", "native", "reference"), "litert"),
        ("fast", "auto", ("native", "reference"), "native"),
        ("fast", "native", ("litert", "native", "reference"), "native"),
    ],
)
def test_plan_and_preference_choose(arithmetic, preference, installed, expected):
    assert choose(arithmetic, preference, installed)[0] == expected


def test_it_is_available_only_where_it_is_built(built, monkeypatch):
    assert backends.available()[-2:] == ("native", "reference")
    monkeypatch.setenv("SANDERLING_NATIVE", "")
    assert "native" not in backends.available()


def test_asked_for_and_not_built_says_how(network):
    with pytest.raises(MissingError, match=r"'native' is not installed.*`sanderling native build`"):
        open_chosen("exact", "native", network, dense_head(network), print)


def test_a_name_of_no_file_is_told(monkeypatch):
    monkeypatch.setenv("SANDERLING_NATIVE", "/nowhere/libsanderling.so")
    with pytest.raises(MissingError, match=r"'/nowhere/libsanderling\.so': there is no such file"):
        default_library()


def test_a_library_without_its_headers_is_told(library, tmp_path, monkeypatch):
    monkeypatch.setenv("SANDERLING_NATIVE", str(shutil.copy(library, tmp_path)))
    with pytest.raises(MissingError, match="its headers must lie beside it"):
        open_default()


def damaged(library: Path, folder: Path, old: str, new: str) -> Path:
    """The library with other words in its headers."""
    shutil.copytree(library.parent.resolve(), folder)
    kernels = folder / "include" / "sanderling" / "kernels.h"
    assert old in kernels.read_text()
    kernels.write_text(kernels.read_text().replace(old, new))
    return folder / library.name


def test_a_library_of_another_version_is_left_for_the_reference(network, library, tmp_path, monkeypatch):
    other = damaged(library, tmp_path / "other", "SL_KERNELS_VERSION = 1,", "SL_KERNELS_VERSION = 0,")
    monkeypatch.setenv("SANDERLING_NATIVE", str(other))
    lines: list[str] = []
    backend = open_chosen("exact", "auto", network, dense_head(network), lines.append)
    assert backend.name == "reference"
    assert "is of another version: run `sanderling native build` again" in lines[0]


def test_a_file_that_is_no_library_is_left_for_the_reference(network, library, tmp_path, monkeypatch):
    shutil.copytree(library.parent.resolve(), tmp_path / "other")
    (tmp_path / "other" / library.name).write_bytes(b"no ELF")
    monkeypatch.setenv("SANDERLING_NATIVE", str(tmp_path / "other" / library.name))
    lines: list[str] = []
    assert open_chosen("exact", "auto", network, dense_head(network), lines.append).name == "reference"
    assert "cannot be opened" in lines[0]
    with pytest.raises(MissingError, match="cannot be opened"):
        open_chosen("exact", "native", network, dense_head(network), lines.append)


def test_other_bytes_than_the_references_are_not_used(network, built, monkeypatch):
    right = NativeNetwork.features
    monkeypatch.setattr(NativeNetwork, "features", lambda *arguments: right(*arguments) ^ np.int8(1))
    with pytest.raises(SanderlingError, match="other bytes than the reference"):
        open_backend("native", network, dense_head(network))
    lines: list[str] = []
    assert open_chosen("exact", "auto", network, dense_head(network), lines.append).name == "reference"
