"""The commands of certificates and devices, as an operator types them."""

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanderling import cli, config_file, security
from sanderling.broker import pki
from sanderling.broker.identity import read_identity, tls_files
from sanderling.broker.link import Connected, Disconnected, Link
from sanderling.broker.mosquitto import free_port
from sanderling.models.errors import MissingError, UsageError
from tests.broker.fleet import settings, wait_for


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(capsys):
    """Runs a command; its status, and its result or error."""

    def run(*arguments: str) -> tuple[int, dict]:
        status = cli.main([*arguments, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def ok(say):
    def run(*arguments: str) -> dict:
        status, result = say(*arguments)
        assert status == 0, result
        return result

    return run


def states(ok) -> dict[str, str]:
    return {row["device"]: row["state"] for row in ok("device", "list")["devices"]}


def test_a_pki_is_for_this_machine_and_the_hosts_that_are_named(ok):
    made = ok(
        "pki", "init", "--host", "broker.local", "-c", "broker.host=0.0.0.0", "-c", "link.host=10.0.2.2"
    )
    assert {"broker.local", "10.0.2.2", "localhost", "127.0.0.1", "::1"} <= set(made["hosts"])
    assert "0.0.0.0" not in made["hosts"]
    certificate = pki.read_certificate(Path("sanderling-pki/broker/certificate.pem"))
    assert set(pki.hosts_of(certificate)) == set(made["hosts"])


def test_a_pki_is_made_once(say, ok):
    ok("pki", "init")
    status, result = say("pki", "init")
    assert (status, result["error"]["kind"]) == (2, "UsageError")


def test_no_command_prints_a_secret(capfd):
    for words in (
        ["pki", "init"],
        ["device", "enroll", "a"],
        ["device", "enroll", "b", "--local"],
        ["device", "list"],
        ["device", "show", "b"],
        ["device", "request", "--token", "a.token"],
        ["device", "answer", "a.request"],
        ["device", "accept", "a.reply", "--device", "a"],
        ["device", "revoke", "b"],
        ["pki", "rotate", "broker"],
    ):
        assert cli.main(words) == 0, words
    out, err = capfd.readouterr()
    assert "PRIVATE" not in out + err
    assert "sanderling-enrol-1." not in out + err


def test_a_device_of_this_machine_is_enrolled_on_the_spot(ok):
    ok("pki", "init")
    enrolled = ok("device", "enroll", "watch-04", "--local")
    assert enrolled["identity"] == "sanderling-watch-04/identity"
    assert read_identity(Path(enrolled["identity"])).device_id == "watch-04"
    assert states(ok) == {"watch-04": "enrolled"}
    tls = security.device_tls(config_file.load(None), "watch-04", Path(enrolled["identity"]))
    assert tls.context().get_ca_certs()
    with pytest.raises(UsageError, match="identity of watch-04"):
        security.device_tls(config_file.load(None), "watch-05", Path(enrolled["identity"]))
    with pytest.raises(UsageError, match="not of watch-04 in other"):
        other = config_file.load(None, ["federation.name=other"])
        security.device_tls(other, "watch-04", Path(enrolled["identity"]))


def test_a_token_is_a_file_for_its_owner_alone_and_is_not_overwritten(say, ok):
    ok("pki", "init")
    token = ok("device", "enroll", "watch-04", "--host", "broker.local")
    assert stat.S_IMODE(Path(token["token_file"]).stat().st_mode) == 0o600
    assert states(ok) == {"watch-04": "invited"}
    assert say("device", "enroll", "watch-04")[0] == 2


def test_a_device_without_a_network_is_enrolled_by_files(say, ok):
    ok("pki", "init")
    ok("device", "enroll", "watch-04", "--out", "t")
    ok("device", "request", "--token", "t", "--dir", "there")
    first = Path("watch-04.request").read_bytes()
    ok("device", "request", "--token", "t", "--dir", "there")
    assert Path("watch-04.request").read_bytes() == first
    ok("device", "answer", "watch-04.request")
    reply = Path("watch-04.reply").read_bytes()
    ok("device", "answer", "watch-04.request")
    assert Path("watch-04.reply").read_bytes() == reply
    Path("wrong").write_bytes(reply[:-1] + b"\0")
    status, result = say("device", "accept", "wrong", "--dir", "there")
    assert (status, "not_authentic" in result["error"]["message"]) == (2, True)
    ok("device", "accept", "watch-04.reply", "--dir", "there")
    assert read_identity(Path("there/identity")).device_id == "watch-04"
    assert states(ok) == {"watch-04": "enrolled"}
    ok("device", "request", "--token", "t", "--dir", "elsewhere")  # the token again
    status, result = say("device", "answer", "watch-04.request")
    assert (status, "used_token" in result["error"]["message"]) == (2, True)


def test_rotation_and_revocation_show_in_the_lists(say, ok):
    ok("pki", "init")
    old = ok("device", "enroll", "watch-04", "--local")["serial"]
    new = ok("device", "rotate", "watch-04", "--local")["serial"]
    shown = ok("device", "show", "watch-04")["certificates"]
    assert [row["serial"] for row in shown] == [old, new]
    assert [row["state"].split()[0] for row in shown] == ["superseded", "good"]
    assert ok("device", "revoke", "watch-04")["revoked"] == 1
    assert states(ok) == {"watch-04": "revoked"}
    assert set(pki.notices(Path("sanderling-pki/broker/revoked.pem").read_bytes())) == {
        int(old, 16),
        int(new, 16),
    }
    for words in (
        ("device", "revoke", "watch-77"),
        ("device", "show", "watch-77"),
        ("device", "rotate", "watch-77"),
    ):
        assert say(*words)[0] == 2
    ok("device", "enroll", "watch-04", "--local", "--dir", "again")
    assert states(ok) == {"watch-04": "enrolled"}


@pytest.mark.parametrize(
    "words",
    [
        ["device", "enroll"],
        ["device", "enroll", "a", "--token", "t"],
        ["device", "enroll", "a", "--valid", "0"],
        ["device", "enroll", "coordinator"],
        ["device", "enroll", "a/b"],
        ["device", "enroll", "--token", "nowhere"],
        ["device", "request", "--token", "nowhere"],
        ["device", "accept", "nowhere", "--device", "a"],
        ["device", "accept", "nowhere"],
        ["device", "answer", "nowhere"],
        ["pki", "rotate", "device"],
        ["pki", "rotate", "broker", "--host", "a b"],
    ],
)
def test_wrong_usage_exits_2(say, ok, words):
    ok("pki", "init")
    status, result = say(*words)
    assert (status, result["error"]["exit_status"]) == (2, 2)


@pytest.mark.parametrize(
    "words", [["broker", "run"], ["device", "list"], ["device", "enroll", "a"], ["pki", "rotate", "broker"]]
)
def test_without_certificates_the_command_that_makes_them_is_named(say, words):
    status, result = say(*words)
    assert (status, "sanderling pki init" in result["error"]["message"]) == (4, True)


def test_nodes_without_certificates_are_missing_something_and_plain_text_is_a_choice():
    config = config_file.load(None)
    with pytest.raises(MissingError, match="sanderling pki init"):
        security.coordinator_tls(config)
    with pytest.raises(MissingError, match="sanderling device enroll"):
        security.device_tls(config, "watch-04", Path("nowhere"))
    plain = config_file.load(None, ["security.mode=plain"])
    assert security.coordinator_tls(plain) is None
    assert security.device_tls(plain, "watch-04", Path("nowhere")) is None
    assert security.broker_listener(plain) is None


@pytest.mark.network
@pytest.mark.slow
def test_a_running_broker_follows_enrolment_rotation_and_revocation(ok, here):
    """Every command in a process of its own, on real mosquitto."""
    ports = free_port("127.0.0.1"), free_port("127.0.0.1")
    Path("federation.toml").write_text(
        config_file.render(
            config_file.load(
                None,
                [
                    f"link.port={ports[0]}",
                    f"broker.port={ports[0]}",
                    "broker.kind=mosquitto",
                    f"security.enrolment_port={ports[1]}",
                ],
            )
        )
    )
    ok("pki", "init")
    with started("broker", "run") as broker, started("device", "serve") as serve:
        until(broker, "with TLS, certificates and access rules, this machine only")
        ok("device", "enroll", "watch-04")
        until(serve, "enrolment listener on")
        enroll = [*COMMAND, "device", "enroll", "--token", "watch-04.token", "--dir", "there"]
        subprocess.run(enroll, check=True, timeout=60)
        until(serve, "answered the request of watch-04")
        identity = Path("there/identity")
        with connected_as(identity, ports[0]) as link:
            ok("device", "revoke", "watch-04")
            until(broker, "revoked: certificates of watch-04; their connections are closed")
            reasons = [wait_for(link, Disconnected).reason for _ in range(2)]  # closed; and not let in again
            assert "revoked" in reasons[1]
        ok("pki", "rotate", "broker")
        until(broker, "revoked: certificates of broker")


# ---------------------------------------------------------------------- processes

COMMAND = [sys.executable, "-m", "sanderling.cli"]


@contextmanager
def started(*words: str):
    """A command as a process; yields the file that its progress goes to."""
    log = Path(f"{'-'.join(words)}.log")
    with log.open("wb") as out:
        process = subprocess.Popen([*COMMAND, *words], stdout=out, stderr=out, env=os.environ)
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def until(log: Path, words: str, timeout_s: float = 30.0) -> None:
    give_up = time.monotonic() + timeout_s
    while words not in log.read_text():
        assert time.monotonic() < give_up, f"{words!r} not in {log.read_text()}"
        time.sleep(0.02)


@contextmanager
def connected_as(identity: Path, port: int):
    with Link(settings(port, "x", tls=tls_files(identity))) as link:
        wait_for(link, Connected)
        yield link
