"""The C runtime, built for this machine once a session."""

import shutil

import pytest

from sanderling.firmware_export import native
from sanderling.models.native import Native, open_library


@pytest.fixture(scope="session")
def runtime() -> Native:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return open_library(native.library(), native.headers())
