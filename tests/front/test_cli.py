import json
import subprocess
import sys
from pathlib import Path

import pytest

from sanderling import __version__, cli
from sanderling.models.errors import MissingError, SanderlingError, UnsoundError


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_without_a_command_it_lists_them(capsys) -> None:
    status, out, _ = run(capsys)
    assert status == 0
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_and_takes_json(capsys, name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*name.split(), "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys) -> None:
    assert run(capsys, "--version") == (0, f"sanderling {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["edge"],
        ["edge", "run"],
        ["check", "--no-such-option"],
        ["replay"],
        ["demo", "--seed", "x"],
    ],
)
def test_wrong_usage_exits_2_and_says_why(capsys, arguments: list[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")


def test_wrong_usage_in_json_is_one_object_on_stdout(capsys) -> None:
    status, out, err = run(capsys, "check", "--no-such-option", "--json")
    assert (status, err) == (2, "")
    assert json.loads(out)["error"]["exit_status"] == 2


@pytest.mark.parametrize(("error", "expected"), [(SanderlingError, 1), (UnsoundError, 3), (MissingError, 4)])
def test_the_kind_of_error_decides_the_exit_status(capsys, monkeypatch, error: type, expected: int) -> None:
    def fail(*_: object) -> None:
        raise error("what, and what to do")

    monkeypatch.setattr("sanderling.commands.init.run", fail)
    status, _, err = run(capsys, "init")
    assert (status, err) == (expected, "error: what, and what to do\n")


def test_a_fault_of_ours_exits_1_with_its_trace(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sanderling.commands.init.run", lambda *_: 1 / 0)
    status, out, err = run(capsys, "init", "--json")
    assert status == 1
    assert "ZeroDivisionError" in err
    assert "please report it" in json.loads(out)["error"]["message"]


def test_init_writes_a_file_that_check_accepts(capsys, tmp_path: Path) -> None:
    path = str(tmp_path / "f.toml")
    assert run(capsys, "init", path, "-c", "round.count=7")[0] == 0
    status, out, _ = run(capsys, "check", path, "--json")
    assert status == 0
    assert json.loads(out)["config"]["round"]["count"] == 7


def test_init_keeps_a_file_that_is_there(capsys, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text("# mine")
    status, _, err = run(capsys, "init", str(path))
    assert (status, path.read_text()) == (2, "# mine")
    assert "--force" in err
    assert run(capsys, "init", str(path), "--force")[0] == 0


def test_check_prints_the_schema(capsys) -> None:
    status, out, _ = run(capsys, "check", "--schema")
    assert status == 0
    assert json.loads(out)["$ref"] == "#/$defs/FederationConfig"


def test_replay_names_a_directory_without_a_run(capsys, tmp_path: Path) -> None:
    status, _, err = run(capsys, "replay", str(tmp_path))
    assert status == 2
    assert "holds no ledger" in err
    assert list(tmp_path.iterdir()) == []


def test_demo_keeps_a_directory_that_is_there(capsys, tmp_path: Path) -> None:
    status, _, err = run(capsys, "demo", "--dir", str(tmp_path))
    assert status == 2
    assert "is there already" in err


def test_the_front_door_of_a_device_imports_nothing_that_only_the_coordinator_needs() -> None:
    code = (
        "import sys; from sanderling.commands import edge_run; "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "{'mlflow','torch','sklearn','pandas','matplotlib','onnx','onnxruntime','amqtt','scipy','seglearn'} "
        "or name.startswith('sanderling.coordinator')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_model_tail_ranks_what_fits_the_budget(capsys) -> None:
    status, out, _ = run(
        capsys,
        "model",
        "tail",
        "watch-cnn",
        "--sram",
        "16KB",
        "--client",
        "watch-05",
        "--cache",
        "32",
        "--json",
    )
    assert status == 0
    choices = json.loads(out)["choices"]
    assert all(choice["sram_bytes"] <= 16 << 10 for choice in choices)
    assert [choice["accuracy"] for choice in choices] == sorted(
        (choice["accuracy"] for choice in choices), reverse=True
    )
    assert any(choice["gain"] == 0 for choice in choices)  # the head alone


def test_model_tail_says_when_not_even_the_head_fits(capsys) -> None:
    status, _, err = run(capsys, "model", "tail", "watch-cnn", "--sram", "1KB", "--cache", "32")
    assert status == 2
    assert "cache fewer" in err
