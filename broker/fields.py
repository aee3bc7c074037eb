"""What one item of a CBOR message may be, and how it becomes a field of a dataclass (RFC 8949, RFC 8610).

A kind reads an item that came off the wire and writes a field that goes on it; both raise FieldError, which
says what was expected and what came. Kinds stand in the annotations of broker/messages.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, get_type_hints


class FieldError(Exception):
    """An item is not what its field takes."""


class Kind(Protocol):
    def read(self, item: object) -> Any: ...
    def write(self, value: Any) -> object: ...


class _Checked:
    """A kind whose field and item are the same value."""

    def read(self, item: object) -> Any:
        raise NotImplementedError

    def write(self, value: object) -> object:
        return self.read(value)


@dataclass(frozen=True)
class Uint(_Checked):
    """An integer from `least` to `most`, 2**64 - 1 at the most."""

    least: int
    most: int

    def read(self, item: object) -> int:
        if type(item) is not int or not self.least <= item <= self.most:
            raise FieldError(f"expected an integer from {self.least} to {self.most}, got {_show(item)}")
        return item


@dataclass(frozen=True)
class Bytes(_Checked):
    """A byte string of `least` to `most` bytes."""

    least: int
    most: int

    def read(self, item: object) -> bytes:
        if type(item) is not bytes or not self.least <= len(item) <= self.most:
            size = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise FieldError(f"expected {size} bytes, got {_show(item)}")
        return item


@dataclass(frozen=True)
class Text(_Checked):
    """A text string of up to `most` characters, matching all of `pattern` if there is one."""

    most: int
    pattern: re.Pattern[str] | None = None

    def read(self, item: object) -> str:
        if type(item) is not str or len(item) > self.most:
            raise FieldError(f"expected text of at most {self.most} characters, got {_show(item)}")
        if self.pattern and not self.pattern.fullmatch(item):
            raise FieldError(f"expected text like {self.pattern.pattern}, got {_show(item)}")
        return item


@dataclass(frozen=True)
class Choice:
    """One of a few names; its place among them travels."""

    names: tuple[str, ...]

    def read(self, item: object) -> str:
        if type(item) is not int or not 0 <= item < len(self.names):
            top = len(self.names) - 1
            raise FieldError(f"expected 0 to {top} for {_list(self.names)}, got {_show(item)}")
        return self.names[item]

    def write(self, value: object) -> int:
        if value not in self.names:
            raise FieldError(f"expected {_list(self.names)}, got {_show(value)}")
        return self.names.index(str(value))


@dataclass(frozen=True)
class Seconds:
    """A time in seconds as a float, exact to the millisecond; whole milliseconds travel."""

    most: int = 2**48  # milliseconds: 8,900 years

    def read(self, item: object) -> float:
        return float(Uint(0, self.most).read(item)) / 1000

    def write(self, value: object) -> int:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise FieldError(f"expected a finite number of seconds, got {_show(value)}")
        return int(Uint(0, self.most).read(round(value * 1000)))


@dataclass(frozen=True)
class Optional:
    """Null, or what `kind` takes."""

    kind: Kind

    def read(self, item: object) -> Any:
        return None if item is None else self.kind.read(item)

    def write(self, value: object) -> object:
        return None if value is None else self.kind.write(value)


@dataclass(frozen=True)
class Many:
    """A list of up to `most` items of one kind."""

    kind: Kind
    most: int

    def read(self, item: object) -> tuple[Any, ...]:
        return tuple(self.kind.read(each) for each in self._bounded(item))

    def write(self, value: object) -> list[object]:
        return [self.kind.write(each) for each in self._bounded(value)]

    def _bounded(self, item: object) -> Sequence[object]:
        if not isinstance(item, (list, tuple)) or len(item) > self.most:
            raise FieldError(f"expected a list of at most {self.most}, got {_show(item)}")
        return item


@dataclass(frozen=True)
class Record:
    """An array that holds the fields of a dataclass or named tuple in their order."""

    type: type

    def read(self, item: object) -> Any:
        kinds = kinds_of(self.type)
        if not isinstance(item, list) or len(item) != len(kinds):
            raise FieldError(f"expected an array of {len(kinds)}, got {_show(item)}")
        return self.type(**read_fields(self.type, dict(enumerate(item)), first_key=0))

    def write(self, value: object) -> list[object]:
        if isinstance(value, tuple) and len(value) == len(kinds_of(self.type)):
            value = self.type(*value)
        if not isinstance(value, self.type):
            raise FieldError(f"expected a {self.type.__name__}, got {_show(value)}")
        return list(write_fields(value, first_key=0).values())


@cache
def kinds_of(record: type) -> dict[str, Kind]:
    """The kind of each field, from its annotation's metadata, in order."""
    hints = get_type_hints(record, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def read_fields(record: type, items: dict[Any, object], *, first_key: int) -> dict[str, Any]:
    """Items numbered from `first_key`, exactly one a field, as arguments of `record`."""
    kinds = kinds_of(record)
    expected = range(first_key, first_key + len(kinds))
    if items.keys() != set(expected):
        raise FieldError(f"expected the keys {expected[0]} to {expected[-1]}, got {_show(list(items))}")
    values = {}
    for key, (name, kind) in zip(expected, kinds.items(), strict=True):
        try:
            values[name] = kind.read(items[key])
        except FieldError as error:
            raise FieldError(f"{name}: {error}") from None
    return values


def write_fields(value: Any, *, first_key: int) -> dict[int, object]:
    """The fields of a dataclass as items numbered from `first_key`."""
    record: type = type(value)
    items = {}
    for key, (name, kind) in enumerate(kinds_of(record).items(), first_key):
        try:
            items[key] = kind.write(getattr(value, name))
        except FieldError as error:
            raise FieldError(f"{name}: {error}") from None
    return items


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]


def _show(item: object) -> str:
    if isinstance(item, (list, tuple, bytes, dict)):
        return f"{type(item).__name__} of {len(item)}"
    return f"{type(item).__name__} {item!r:.60}"
