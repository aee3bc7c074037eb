"""C text of constants, through a small tree: a file of definitions, each an initialiser of literals, names and braces.

Tables become arrays of their own before what points at them, and equal ones become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.c_data import Function, Struct, Table, Value

LINE_LENGTH = 100
INDENT = "    "


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A literal or a name."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Braces:
    """{a, b} or {.name = a, .other = b}."""

    items: tuple[Node, ...]
    fields: tuple[str, ...] | None = None


Node = Word | Braces


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A constant; static ones are known in their file only."""

    ctype: str
    name: str
    length: int | None  # of an array
    value: Node
    static: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Export:
    """What a header declares: a struct, or an array."""

    name: str
    value: Struct | Table
    comment: str


def header(
    guard: str, comment: str, includes: Sequence[str], constants: Mapping[str, int], exports: Sequence[Export]
) -> str:
    """Declares `exports`, and `constants` as an enum."""
    lines = [f"/* {comment} */", f"#ifndef {guard}", f"#define {guard}", "", *_includes(includes), ""]
    if constants:
        entries = [f"{INDENT}{name} = {value}" for name, value in constants.items()]
        lines += ["enum {", *",\n".join(entries).split("\n"), "};", ""]
    for export in exports:
        length = _length(export.value)
        lines += [
            f"/* {export.comment} */",
            f"extern const {_declared(_ctype(export), export.name, length)};",
            "",
        ]
    return "\n".join([*lines, "#endif", ""])


def source(comment: str, includes: Sequence[str], exports: Sequence[Export]) -> str:
    """Defines `exports` and all they point at."""
    blocks = [f"/* {comment} */\n" + "\n".join(_includes(includes))]
    blocks += [render(definition) for definition in definitions(exports)]
    return "\n\n".join(blocks) + "\n"


def definitions(exports: Sequence[Export]) -> list[Definition]:
    """In an order in which each knows what it points at."""
    tables = _Tables()
    for export in exports:
        node = tables.elements(export.value) if isinstance(export.value, Table) else tables.node(export.value)
        tables.done.append(
            Definition(
                ctype=_ctype(export),
                name=export.name,
                length=_length(export.value),
                value=node,
                static=False,
            )
        )
    return tables.done


class _Tables:
    """Tables on their way out of the tree."""

    def __init__(self) -> None:
        self.done: list[Definition] = []
        self._names: dict[tuple[str, Node], str] = {}
        self._counts: dict[str, int] = {}

    def node(self, value: Value) -> Node:
        match value:
            case Struct(fields=fields):
                items = tuple(self.node(field) for field in fields.values())
                return Braces(items=items, fields=tuple(fields))
            case tuple():
                return Braces(items=tuple(self.node(item) for item in value))
            case Table():
                return Word(text=self._name(value))
            case Function(name=name):
                return Word(text=name)
        return Word(text=_literal(value))

    def elements(self, table: Table) -> Braces:
        if isinstance(table.values, tuple):
            return Braces(items=tuple(self.node(item) for item in table.values))
        return Braces(items=tuple(Word(text=text) for text in _numbers(table.ctype, table.values)))

    def _name(self, table: Table) -> str:
        key = (table.ctype, self.elements(table))
        if key not in self._names:
            number = self._counts.get(table.name, 0)
            self._counts[table.name] = number + 1
            self._names[key] = name = f"{table.name}_{number}"
            self.done.append(
                Definition(ctype=table.ctype, name=name, length=len(table.values), value=key[1], static=True)
            )
        return self._names[key]


def _ctype(export: Export) -> str:
    return export.value.ctype


def _length(value: Struct | Table) -> int | None:
    return len(value.values) if isinstance(value, Table) else None


def _numbers(ctype: str, values: NDArray[Any]) -> Iterator[str]:
    if ctype == "uint32_t" and len(values) and int(values.max()) >= 2**16:
        return (f"0x{value:08x}" for value in values.tolist())
    return (_literal(value) for value in values.tolist())


def _literal(value: bool | int | float | None) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return "INT32_MIN" if value == -(2**31) else str(value)
    return float(value).hex()


# Text.


def render(definition: Definition) -> str:
    """`static const int8_t weights_0[3] = {1, 2, 3};`"""
    static = "static " if definition.static else ""
    declared = _declared(definition.ctype, definition.name, definition.length)
    return f"{static}const {declared} = {_text(definition.value, '')};"


def _declared(ctype: str, name: str, length: int | None) -> str:
    return f"{ctype} {name}" if length is None else f"{ctype} {name}[{length}]"


def _text(node: Node, indent: str) -> str:
    """On one line where it is short, words of an array filled into lines, else an item a line."""
    if isinstance(node, Word):
        return node.text
    inner = indent + INDENT
    items = [_text(item, inner) for item in node.items]
    if node.fields is not None:
        items = [f".{name} = {item}" for name, item in zip(node.fields, items, strict=True)]
    if sum(len(item) + 2 for item in items) <= LINE_LENGTH - len(indent) and not any(
        "\n" in i for i in items
    ):
        return "{" + ", ".join(items) + "}"
    lines = _filled(items, LINE_LENGTH - len(inner)) if node.fields is None else items
    return "{\n" + "".join(f"{inner}{line},\n" for line in lines) + indent + "}"


def _filled(items: list[str], width: int) -> list[str]:
    """As many items a line as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width and "\n" not in item:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines


def _includes(headers: Sequence[str]) -> list[str]:
    return [f'#include "{name}"' for name in headers]


def array(ctype: str, values: bytes | NDArray[Any], name: str) -> Table:
    """A table of numbers; bytes are uint8_t."""
    data = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else values
    return Table(ctype=ctype, values=data, name=name)
