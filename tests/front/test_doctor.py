"""`sanderling doctor` as an operator types it: what it prints, its exit status, and whom it takes to be running."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sanderling import cli, security
from sanderling.broker.link import Delivered, Link
from sanderling.broker.run import start_broker
from sanderling.broker.topics import Topics
from sanderling.commands.doctor import _has_open, _is_locked
from sanderling.config import FederationConfig
from sanderling.coordinator.ledger import FILE_NAME
from sanderling.edge_runtime.storage import Storage
from tests.broker.fleet import connected, settings, wait_for
from tests.broker.test_doctor import BODY, HOPS, MODEL, PLAN


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, capsys):
    """A folder with the certificates of a federation, `watch`, and of a device, `kitchen`."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pki", "init"]) == 0
    assert cli.main(["device", "enroll", "kitchen", "--local"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.fixture
def broker():
    """With the announcements of a coordinator."""
    config = FederationConfig()
    listener = replace(security.broker_listener(config), port=0)
    topics = Topics("watch")
    with start_broker("mosquitto", tls=listener) as running:
        how = settings(running.port, "c", tls=security.coordinator_tls(config))
        with connected(Link(how)) as link:
            for topic, payload in (
                (topics.plan, replace(PLAN, federation="watch").encode()),
                (topics.model(MODEL.model_hash), BODY),
            ):
                link.publish(topic, payload, retain=True)
                wait_for(link, Delivered)
        yield running


def doctor(capsys, *arguments: str) -> tuple[int, dict]:
    status = cli.main(["doctor", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.network
@pytest.mark.parametrize("who", [("--device", "kitchen"), ()])
def test_a_way_that_is_well_exits_0(capsys, broker, who):
    status, result = doctor(capsys, *who, "-c", f"link.port={broker.port}")
    assert [(hop["name"], hop["state"]) for hop in result["hops"]] == [(name, "ok") for name in HOPS]
    assert (status, result["first_failure"]) == (0, None)


@pytest.mark.network
def test_a_device_that_runs_is_not_a_fault(capsys, broker, here):
    with Storage(here / "sanderling-kitchen"):
        status, result = doctor(capsys, "--device", "kitchen", "-c", f"link.port={broker.port}")
    assert (status, result["first_failure"]) == (0, None)
    assert [hop["state"] for hop in result["hops"]] == ["ok"] * 6 + ["not tried"] * 5


def test_something_missing_exits_4_and_names_the_fix_last(capsys):
    assert cli.main(["doctor", "--device", "kitchen", "-c", "link.host=broker.invalid"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("failed     dns ")
    assert lines[3] == "not tried  port"
    assert lines[-1].startswith("dns fails first: check link.host")


def test_a_device_that_was_never_enrolled_exits_4(capsys):
    status, result = doctor(capsys, "--device", "cellar")
    assert (status, result["first_failure"], result["exit_status"]) == (4, "identity", 4)


def test_a_file_that_is_wrong_exits_2(capsys, here):
    (here / "federation.toml").write_text("[link]\nhots = 1\n")
    status, result = doctor(capsys)
    assert (status, result["first_failure"]) == (2, "configuration")
    assert "line 2: unknown key link.hots" in result["hops"][0]["detail"]


def test_the_identity_of_another_federation_exits_2(capsys):
    status, result = doctor(capsys, "--device", "kitchen", "-c", "federation.name=other")
    assert (status, result["first_failure"]) == (2, "identity")
    assert "kitchen in watch, not of kitchen in other" in result["hops"][1]["detail"]


def test_an_agent_is_seen_while_it_runs(here):
    assert not _is_locked(here / "none")
    with Storage(here / "state"):
        assert _is_locked(here / "state")
    assert not _is_locked(here / "state")


def test_a_coordinator_is_seen_while_it_runs_and_not_once_it_was_killed(here):
    code = (
        "import sys; from pathlib import Path; from sanderling.coordinator.ledger import Ledger\n"
        "ledger = Ledger(Path('run')); print('open', flush=True); sys.stdin.read()"
    )
    ledger = here / "run" / FILE_NAME
    assert not _has_open(ledger)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout.readline() == b"open\n"
        assert _has_open(ledger)
        running.kill()
    assert ledger.with_name(FILE_NAME + "-shm").exists()
    assert not _has_open(ledger)
