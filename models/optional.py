"""Libraries that only some nodes need, imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

from sanderling.models.errors import MissingError


def require(module: str, extra: str) -> Any:
    """The module. MissingError, naming the extra that brings it, when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(f"{module} is not installed: pip install 'sanderling[{extra}]'") from error
