"""C kernels give the reference's bytes, by vectors and by the plain way, and do nothing that C leaves undefined."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sanderling.firmware_export import native
from sanderling.models import arithmetic, inference, zoo
from sanderling.models.native import NativeNetwork, open_library
from sanderling.models.network import Network
from sanderling.models.specimens import operator_kinds
from tests.firmware_export.kernel_cases import assert_same_bytes, hard_cases, random_cases

SPECIMENS_A_KIND = 20
KERNELS = [
    file
    for file in native.sources()
    if file.stem in ("arithmetic", "network") or file.stem.startswith("kernels")
]
Run = Callable[[Network, NDArray], list[NDArray]]


@pytest.fixture(scope="module", params=[("-O2",), ("-O2", "-DSL_PLAIN")], ids=["vectors", "plain"])
def run(request) -> Run:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    opened = open_library(native.library(flags=request.param), native.headers())
    return lambda network, inputs: NativeNetwork(opened, network).run(inputs)


@pytest.mark.parametrize("kind", operator_kinds())
def test_each_operator_equals_the_reference(run: Run, kind):
    for network, inputs in random_cases(kind, SPECIMENS_A_KIND):
        assert_same_bytes(run, network, inputs)


def test_chains_of_operators_equal_the_reference(run: Run):
    for network, inputs in random_cases(None, SPECIMENS_A_KIND, first_seed=1000):
        assert_same_bytes(run, network, inputs)


def test_what_random_networks_hardly_hit_equals_the_reference(run: Run):
    for network, inputs in hard_cases():
        assert_same_bytes(run, network, inputs)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_zoo_equals_the_reference(run: Run, name):
    pytest.importorskip("torch")
    network = zoo.random_network(name, 5)
    count = int(os.environ.get("SANDERLING_ZOO_INPUTS", "5"))
    shape = network.tensors[network.inputs[0]].shape[1:]
    inputs = np.random.default_rng(0).integers(-128, 128, (count, *shape)).astype(np.int8)
    assert_same_bytes(run, network, inputs)


@pytest.mark.parametrize("name", ["watch-cnn", "fashion-ds-cnn"])
def test_what_enters_any_layer_equals_the_reference(runtime, name):
    network = zoo.load(name).network
    opened = NativeNetwork(runtime, network)
    shape = network.tensors[network.inputs[0]].shape[1:]
    inputs = np.random.default_rng(0).integers(-128, 128, (3, *shape)).astype(np.int8)
    for layer in range(len(network.layers)):
        np.testing.assert_array_equal(
            opened.features(inputs, layer), inference.features(network, inputs, layer)
        )


def test_inputs_of_another_shape_or_type_are_refused(runtime):
    opened = NativeNetwork(runtime, zoo.load("watch-cnn").network)
    with pytest.raises(ValueError, match=r"expected int8 \(n, 1, "):
        opened.run(np.zeros((2, 3), np.int8))
    with pytest.raises(ValueError, match="got float32"):
        opened.run(np.zeros((2, *zoo.load("watch-cnn").network.tensors[0].shape[1:]), np.float32))
    with pytest.raises(ValueError, match="has 1 inputs, got 2"):
        opened.run([np.zeros((2, 3), np.int8)] * 2)


def test_fixed_point_functions_equal_the_reference(runtime):
    lib = runtime.lib
    rng = np.random.default_rng(1)
    negative = np.concatenate([-(rng.integers(0, 31 << 26, 300)), np.array([0, -1, -(31 << 26)])])
    assert [lib.sl_exp(int(x)) for x in negative] == arithmetic.exp_on_negative_values(negative, 5).tolist()
    unit = np.append(rng.integers(0, 2**31, 300), [0, 2**31 - 1])
    assert [lib.sl_reciprocal(int(x)) for x in unit] == arithmetic.reciprocal_of_one_plus(unit).tolist()
    values = np.append(rng.integers(-(2**31), 2**31, 400), [-(2**31), 2**31 - 1, -1, 0])
    for shift in (-31, -30, -8, -1, 0, 1, 7, 30):
        for multiplier in (0, 2**30, 2**31 - 1, 1518500250):
            scale = runtime.ffi.new("sl_scale *", (multiplier, shift))[0]
            expected = arithmetic.multiply_by_quantized_multiplier(values, multiplier, shift)
            assert [lib.sl_rescale(int(x), scale) for x in values] == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-DSL_PLAIN",)], ids=["vectors", "plain"])
def test_nothing_is_undefined(flags, tmp_path):
    """Address and undefined-behaviour sanitizers on every case, in a process of its own that they may stop."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    sanitizer = Path(found.stdout.strip())
    if not sanitizer.is_absolute():
        pytest.skip("gcc without its address sanitizer")
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library, include = tmp_path / "kernels.so", native.RUNTIME / "include"
    subprocess.run(
        [
            "gcc",
            *native.WARNINGS,
            *sanitizers,
            *flags,
            "-fPIC",
            "-shared",
            "-I",
            include,
            *KERNELS,
            "-o",
            library,
        ],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.firmware_export.kernel_cases", library, include / "sanderling"],
        env={
            **os.environ,
            "LD_PRELOAD": str(sanitizer),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",  # so that each piece of memory has its own red zones
            "OMP_NUM_THREADS": "1",
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 150
