"""Constants of C as frozen data: what lowering makes of a network, written out as text or made in memory.

One tree, two readers: firmware_export/c_tree.py prints it, models/native.py fills the same structs through cffi.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Struct:
    """A struct of the type `ctype`; fields that are not named are zero."""

    ctype: str
    fields: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A pointer to a constant array: of numbers, or of structs, a single one among them."""

    ctype: str  # of an element
    values: NDArray[Any] | tuple[Struct, ...]
    name: str  # a hint, for people who read the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A pointer to a function of the runtime."""

    name: str


# A number, a struct, an array within a struct, a pointer; None is the null pointer.
Value = bool | int | float | Struct | tuple["Value", ...] | Table | Function | None
