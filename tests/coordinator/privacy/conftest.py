"""Shared by the privacy tests: dp-accounting may be missing on a developer's machine, never in CI."""

import os
import random

import pytest

from sanderling.coordinator.privacy.discrete_gaussian import ByteSource


@pytest.fixture(scope="session")
def dp():
    """dp-accounting itself."""
    if not os.environ.get("CI"):
        pytest.importorskip("dp_accounting", reason="uv pip install dp-accounting==0.6.*")
    import dp_accounting

    return dp_accounting


@pytest.fixture
def seeded():
    """Byte sources that give the same bytes each time."""

    def make(seed: int = 1) -> ByteSource:
        return random.Random(seed).randbytes

    return make
