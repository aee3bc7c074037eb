"""Reading and writing federation.toml: every problem at once, each with its line, what was expected and what came."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from sanderling.config import FederationConfig, Section, json_schema
from sanderling.edge_runtime.byte_budget import DAY_S, RESERVE_BYTES, wire_bytes
from sanderling.models.errors import UsageError

__all__ = [
    "ConfigError",
    "as_plain",
    "differing_sections",
    "is_loopback",
    "json_schema",
    "load",
    "parse",
    "render",
    "with_link",
]

MAX_FILE_BYTES = 1 << 20


class ConfigError(UsageError):
    """The file's problems, one a line."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = tuple(problems)


def load(path: Path | None, overrides: Sequence[str] = ()) -> FederationConfig:
    """The settings in `path`, or all defaults when None, with `section.key=value` overrides laid over them."""
    if path is None:
        return parse("", "defaults", overrides)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(str(path), [f"expected a file of at most {MAX_FILE_BYTES} bytes"])
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), [f"expected UTF-8 text, came {error.reason} at byte {error.start}"]
        ) from None
    except OSError as error:
        raise ConfigError(
            str(path), [f"cannot be read: {error.strerror}; write one with `sanderling init {path}`"]
        ) from None
    return parse(text, str(path), overrides)


def parse(text: str, source: str = "federation.toml", overrides: Sequence[str] = ()) -> FederationConfig:
    """`load` on text. Raises ConfigError with every problem found."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"not TOML: {error}"]) from None
    lines = _lines(text)
    for override in overrides:
        _lay_over(raw, override, lines)
    problems = list(_problems(raw, lines))
    if problems:
        raise ConfigError(source, problems)
    config = msgspec.convert(raw, FederationConfig)
    if problems := list(_contradictions(config)):
        raise ConfigError(source, problems)
    return config


def render(config: FederationConfig | None = None) -> str:
    """A commented federation.toml with the values of `config` (default: the defaults)."""
    config = config or FederationConfig()
    out = ["# A Sanderling federation. `sanderling check` validates this file.", ""]
    for name in config.__struct_fields__:
        section = getattr(config, name)
        out += [f"# {type(section).__doc__}", f"[{name}]"]
        types = msgspec.inspect.type_info(type(section))
        assert isinstance(types, msgspec.inspect.StructType)
        for entry in types.fields:
            out += textwrap.wrap(_describe(entry), width=100, initial_indent="# ", subsequent_indent="# ")
            out.append(f"{entry.name} = {_toml_value(getattr(section, entry.name))}")
        out.append("")
    return "\n".join(out)


def as_plain(config: FederationConfig) -> dict[str, Any]:
    """The settings as plain dictionaries, lists and numbers."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def differing_sections(a: FederationConfig, b: FederationConfig) -> set[str]:
    """The names of the sections in which two federations' settings differ."""
    return {name for name in a.__struct_fields__ if getattr(a, name) != getattr(b, name)}


def with_link(config: FederationConfig, other: FederationConfig) -> FederationConfig:
    """`config` with the broker's place of `other`, and how it is talked to."""
    return msgspec.structs.replace(config, link=other.link, broker=other.broker, security=other.security)


def _problems(raw: dict[str, Any], lines: dict[str, int]) -> Iterator[str]:
    sections: dict[str, type[Section]] = get_type_hints(FederationConfig)
    for name, table in raw.items():
        if name not in sections:
            yield f"{_at(lines, name)}unknown section [{name}]; {_nearest(name, sections)}"
        elif not isinstance(table, dict):
            yield f"{_at(lines, name)}expected a section [{name}], came {name} = {table!r}"
        else:
            yield from _section_problems(name, table, sections[name], lines)


def _section_problems(
    name: str, table: dict[str, Any], section: type[Section], lines: dict[str, int]
) -> Iterator[str]:
    for key, value in table.items():
        where = _at(lines, f"{name}.{key}")
        if key not in section.__struct_fields__:
            yield f"{where}unknown key {name}.{key}; {_nearest(key, section.__struct_fields__)}"
            continue
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{where}{name}.{key} = {value}: expected a finite number"
            continue
        try:
            msgspec.convert({key: value}, section)
        except msgspec.ValidationError as error:
            reason = re.sub(r" - at `\$.*`$", "", str(error))
            yield f"{where}{name}.{key} = {_toml_value(value)}: {reason[0].lower()}{reason[1:]}{_choices(section, key)}"


def _contradictions(config: FederationConfig) -> Iterator[str]:
    """Settings that are well typed but cannot be meant together."""
    devices = config.federation.devices
    if config.round.mode == "lockstep" and not devices:
        yield "round.mode = lockstep waits for every device: name them in federation.devices, or use deadline"
    if len(set(devices)) != len(devices):
        yield "federation.devices: expected each device once"
    reachable = len(devices) or None
    wanted = config.selection.cohort or reachable
    if wanted is not None and config.round.quorum > wanted:
        yield (
            f"round.quorum = {config.round.quorum} can never be met: a round asks for {wanted} reports; "
            "lower round.quorum or raise selection.cohort"
        )
    if reachable is not None and config.selection.minimum > reachable:
        yield (
            f"selection.minimum = {config.selection.minimum} can never be met: federation.devices names "
            f"{reachable}; lower it or name more devices"
        )
    if reachable is not None and config.selection.cohort > reachable:
        yield f"selection.cohort = {config.selection.cohort} is more than the {reachable} devices named"
    yield from _publish_contradictions(config)
    if config.security.mode == "plain" and not is_loopback(config.broker.host):
        yield (
            f"security.mode = plain with broker.host = {config.broker.host} would open the broker to the network; "
            "keep broker.host at 127.0.0.1, or use security.mode = tls"
        )


def is_loopback(host: str) -> bool:
    """Whether a broker that listens there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _publish_contradictions(config: FederationConfig) -> Iterator[str]:
    publish = config.publish
    if publish.adaptive and config.round.mode == "lockstep":
        yield "publish.adaptive with round.mode = lockstep, which waits for everyone: use round.mode = deadline"
    for name in ("bytes_per_day", "bytes_per_round"):
        if 0 < getattr(publish, name) < 2 * RESERVE_BYTES:
            yield f"publish.{name} = {getattr(publish, name)}: expected 0 or at least {2 * RESERVE_BYTES}"
    pings = round(DAY_S / config.link.keepalive_s) * 2 * wire_bytes(2, tls=True)
    if publish.bytes_per_day and pings > publish.bytes_per_day // 4:
        longer = -(-DAY_S * 2 * wire_bytes(2, tls=True) * 4 // publish.bytes_per_day)
        yield (
            f"link.keepalive_s = {config.link.keepalive_s} takes {pings} bytes a day in pings alone, more than a quarter of "
            f"publish.bytes_per_day = {publish.bytes_per_day}: use link.keepalive_s = {min(longer, 65535)} or more"
        )


def _lines(text: str) -> dict[str, int]:
    """Line number of each section and key: good enough for messages, TOML itself is read by tomllib."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.\"'-]+)\s*\]", line):
            section = header[1].strip("\"'")
            lines.setdefault(section, number)
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            name = key[1].strip("\"'")
            lines.setdefault(f"{section}.{name}" if section else name, number)
    return lines


def _lay_over(raw: dict[str, Any], override: str, lines: dict[str, int]) -> None:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not key:
        raise ConfigError("-c", [f"expected section.key=value, came {override!r}"])
    table = raw.setdefault(section, {})
    if isinstance(table, dict):
        table[key] = _override_value(text.strip())
        lines.pop(f"{section}.{key}", None)


def _override_value(text: str) -> Any:
    """The text as a TOML value, or as a plain string where it is none (so that host=pi.local needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _at(lines: dict[str, int], name: str) -> str:
    return f"line {lines[name]}: " if name in lines else ""


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


def _choices(section: type[Section], key: str) -> str:
    types = msgspec.inspect.type_info(section)
    assert isinstance(types, msgspec.inspect.StructType)
    entry = next(entry for entry in types.fields if entry.name == key)
    kind = entry.type.type if isinstance(entry.type, msgspec.inspect.Metadata) else entry.type
    if isinstance(kind, msgspec.inspect.LiteralType):
        return f"; expected one of {', '.join(map(str, kind.values))}"
    return ""


def _describe(entry: msgspec.inspect.Field) -> str:
    meta = entry.type.extra_json_schema if isinstance(entry.type, msgspec.inspect.Metadata) else None
    return str((meta or {}).get("description", ""))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return str(value)
