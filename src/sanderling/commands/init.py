"""Write a commented federation.toml with every setting at its default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import config_file
from sanderling.commands import options
from sanderling.console import Console
from sanderling.models.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The path to write."""
    parser.add_argument("path", nargs="?", type=Path, default=Path("federation.toml"))
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    options.add_overrides(parser)


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Writes the file; an existing one is kept unless --force is given."""
    path: Path = arguments.path
    text = config_file.render(config_file.load(None, arguments.overrides))
    try:
        with path.open("w" if arguments.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file, or replace it with --force") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return {"path": str(path)}, f"wrote {path}; validate it with `sanderling check {path}`"
