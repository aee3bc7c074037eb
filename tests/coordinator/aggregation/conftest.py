"""The packages that the rules are held against."""

import importlib
import importlib.util
import sys
import types

import pytest


@pytest.fixture(scope="session")
def byzfl() -> types.ModuleType:
    """ByzFL's aggregators. The package's own __init__ loads its benchmarks too, which want torchvision: left out."""
    pytest.importorskip("torch", reason="ByzFL needs torch")
    pytest.importorskip("scipy", reason="ByzFL needs scipy")
    spec = importlib.util.find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("ByzFL is not installed: uv pip install --no-deps byzfl==0.0.11")
    if "byzfl" not in sys.modules:
        package = types.ModuleType("byzfl")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators")
