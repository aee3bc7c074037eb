"""The command line. Every command takes --json, never prompts, and exits 0 ok, 1 our fault, 2 usage or configuration,
3 refused as unsound or unsafe, 4 something missing in the environment.

A command's module is imported only when it is asked for, so that a device's agent starts without the rest.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from sanderling import __version__
from sanderling.console import Console
from sanderling.models.errors import SanderlingError, UsageError

# command -> (module in sanderling.commands, one line of help)
COMMANDS = {
    "demo": (
        "demo",
        "run a whole federation on this machine: a broker, a coordinator, seven devices, real data",
    ),
    "init": ("init", "write a commented federation.toml"),
    "check": ("check", "validate a federation.toml"),
    "pki init": ("pki_init", "make the certificates of a federation"),
    "pki rotate": ("pki_rotate", "give the broker or the coordinator a new certificate"),
    "device enroll": ("device_enroll", "make a device's token, or enrol this device with one"),
    "device serve": ("device_serve", "answer devices that enrol"),
    "device request": ("device_request", "enrol without a network: the device's request"),
    "device answer": ("device_answer", "enrol without a network: the authority's reply"),
    "device accept": ("device_accept", "enrol without a network: take the reply"),
    "device list": ("device_list", "list the devices of a federation"),
    "device show": ("device_show", "show a device's certificates"),
    "device rotate": ("device_rotate", "give a device new keys"),
    "device revoke": ("device_revoke", "end a device's membership"),
    "doctor": ("doctor", "find the first hop that fails between a node and its federation"),
    "broker run": ("broker_run", "start the broker of a federation"),
    "coordinator run": ("coordinator_run", "run the rounds of a federation"),
    "edge run": ("edge_run", "run a device's agent"),
    "gateway serial": (
        "gateway_serial",
        "connect boards on serial lines to the broker",
    ),
    "replay": ("replay", "compute a run's final model again from its ledger"),
    "native build": ("native_build", "build the C runtime for this machine, for its agent"),
    "fit": ("fit", "whether a model fits a microcontroller board, before anything is flashed"),
    "export firmware": ("export_firmware", "write a folder of firmware for a microcontroller that trains"),
    "hil node": ("hil_node", "run a microcontroller's node on the bench, in QEMU, in a federation"),
    "model list": ("model_list", "list the zoo's models"),
    "model tail": ("model_tail", "rank what to train on a device under a memory budget"),
    "model build": ("model_build", "build a model of the zoo from its data"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(as_json="--json" in arguments)
    try:
        return _run(arguments, console)
    except SanderlingError as error:
        console.error(type(error).__name__, str(error), error.exit_status)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        console.error("InternalError", f"a fault of ours, please report it: {error!r}", 1)
        return 1


def _run(arguments: list[str], console: Console) -> int:
    if arguments in (["--version"], ["--version", "--json"]):
        console.result({"version": __version__}, f"sanderling {__version__}")
        return 0
    words = [word for word in arguments if not word.startswith("-")]
    if not words and ("-h" in arguments or "--help" in arguments or not arguments):
        print(overview())
        return 0
    name, rest = _find(arguments)
    module = importlib.import_module(f"sanderling.commands.{COMMANDS[name][0]}")
    parser = _Parser(prog=f"sanderling {name}", description=module.__doc__)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    result: tuple[dict[str, Any], str] = module.run(parser.parse_args(rest), console)
    console.result(*result)
    return int(result[0].get("exit_status", 0))  # of a command whose result is that something fails


def _find(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments name, and what follows it."""
    rest = [word for word in arguments if word != "--json"]
    json_flag = ["--json"] if "--json" in arguments else []
    for length in (2, 1):
        name = " ".join(rest[:length])
        if name in COMMANDS:
            return name, rest[length:] + json_flag
    known = [name for name in COMMANDS if rest and name.split()[0] == rest[0]] or list(COMMANDS)
    raise UsageError(f"unknown command {' '.join(rest[:2])!r}; expected one of: {', '.join(known)}")


def overview() -> str:
    """What `sanderling --help` prints."""
    lines = ["usage: sanderling COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<18}{text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "Every command takes --help and --json. Documentation: docs/ in the source tree."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
