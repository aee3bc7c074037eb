"""Validate a federation.toml: types, unknown keys and contradictions, each with its line; or print its JSON Schema."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sanderling import config_file
from sanderling.commands import options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, or --schema."""
    parser.add_argument("path", nargs="?", type=Path, default=Path("federation.toml"))
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of the file and read nothing"
    )
    options.add_overrides(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The settings as they would be used, defaults and overrides included."""
    if arguments.schema:
        schema = config_file.json_schema()
        return schema, json.dumps(schema, indent=2)
    config = config_file.load(arguments.path, arguments.overrides)
    return {"path": str(arguments.path), "valid": True, "config": config_file.as_plain(config)}, (
        f"{arguments.path} is valid: federation {config.federation.name}, {config.round.count} rounds "
        f"({config.round.mode}), model {config.model.source}, data {config.data.source}"
    )
