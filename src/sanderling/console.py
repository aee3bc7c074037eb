"""What a command prints: with --json one object on stdout and progress on stderr, else text for people on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


class Console:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def progress(self, line: str) -> None:
        """A line about work under way."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def result(self, value: Mapping[str, Any], text: str) -> None:
        """The command's one result."""
        print(json.dumps(value, indent=2) if self.as_json else text, flush=True)

    def error(self, kind: str, message: str, exit_status: int) -> None:
        """Why the command failed."""
        if self.as_json:
            error = {"kind": kind, "message": message, "exit_status": exit_status}
            print(json.dumps({"error": error}, indent=2), flush=True)
        else:
            print(f"error: {message}", file=sys.stderr, flush=True)
