"""Who gets in, and what one may read and write, on a real mosquitto with real certificates.

mosquitto grants a forbidden SUBSCRIBE in its answer, so what counts is what is delivered before a message that was sent last.
"""

import socket
import ssl
import time
from datetime import timedelta

import pytest

from sanderling.broker import mosquitto, pki
from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY
from sanderling.broker.link import Connected, Delivered, Disconnected, Incoming, Link, Refused, TlsFiles
from sanderling.broker.mosquitto import MosquittoConfig, SocketListener
from sanderling.broker.mqtt_client import TlsPin
from sanderling.broker.run import start_broker
from sanderling.models.errors import SanderlingError
from tests.broker.fleet import FEDERATION, TOPICS, Fleet, connected, received_until, settings, wait_for

KINDS = ["mosquitto", "embedded"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    for name in ("a", "b"):
        fleet.device(name)
    return fleet


@pytest.fixture
def broker(fleet):
    """A new one: sessions outlive a test."""
    with start_broker("mosquitto", tls=fleet.listener()) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def either(fleet, request):
    with start_broker(request.param, tls=fleet.listener()) as running:
        yield running


def test_the_configuration_asks_for_certificates_and_nothing_else_lets_in(fleet, tmp_path):
    listener = fleet.listener()
    inside = SocketListener(path=tmp_path / "s", rules="")
    listeners = MosquittoConfig(listeners=[listener, inside], data_dir=tmp_path).text().split("listener ")[1:]
    assert "require_certificate true" in listeners[0]
    assert "allow_anonymous false" in listeners[0]
    assert "use_identity_as_username true" in listeners[0]
    assert "use_username_as_clientid true" in listeners[0]
    assert f"crlfile {listener.revoked}" in listeners[0]
    assert listeners[1].startswith(f"0 {tmp_path}/s\n")  # a socket in the file system
    assert len(listeners) == 2


@pytest.mark.network
def test_a_device_writes_what_is_its_own_and_nothing_as_another(fleet, broker):
    with (
        connected(fleet.link("coordinator", broker.port), TOPICS.all_updates, TOPICS.all_statuses) as hears,
        connected(fleet.link("a", broker.port)) as a,
    ):
        for topic in (
            TOPICS.update("b"),
            TOPICS.status("b"),
            TOPICS.update("coordinator"),
            f"sanderling/1/{FEDERATION}/device/a/../b/update",
        ):
            a.publish(topic, b"forged")
        a.publish(TOPICS.update("a"), b"mine")
        a.publish(TOPICS.status("a"), b"last")
        assert received_until(hears, b"last") == [b"mine", b"last"]


@pytest.mark.network
def test_a_device_reads_what_is_its_own_or_announced_and_nothing_of_another(fleet, broker):
    everything = ("#", "sanderling/#", "+/+/+/device/b/#", TOPICS.all_updates, TOPICS.update("b"), "$SYS/#")
    with (
        connected(fleet.link("a", broker.port), *everything, TOPICS.plan, TOPICS.update("a")) as a,
        connected(fleet.link("b", broker.port)) as b,
        connected(fleet.link("coordinator", broker.port)) as coordinator,
    ):
        b.publish(TOPICS.update("b"), b"of b")
        b.publish(TOPICS.status("b"), b"of b", retain=True)
        for _ in range(2):
            wait_for(b, Delivered)
        a.publish(TOPICS.update("a"), b"of a")
        assert b"of b" not in received_until(a, b"of a")
        coordinator.publish(TOPICS.plan, b"plan")
        assert b"of b" not in received_until(a, b"plan")


@pytest.mark.network
def test_a_device_announces_nothing(fleet, broker):
    with (
        connected(fleet.link("b", broker.port), TOPICS.plan, TOPICS.model(bytes(32)), "#") as b,
        connected(fleet.link("a", broker.port)) as a,
        connected(fleet.link("coordinator", broker.port)) as coordinator,
    ):
        refused = [
            a.publish(topic, b"forged", retain=True) for topic in (TOPICS.plan, TOPICS.model(bytes(32)))
        ]
        assert [wait_for(a, Refused).mid for _ in refused] == refused
        coordinator.publish(TOPICS.plan, b"announced")
        assert b"forged" not in received_until(b, b"announced")


@pytest.mark.network
def test_a_device_cannot_take_over_the_session_of_another(fleet, broker):
    with connected(fleet.link("b", broker.port), TOPICS.update("b")) as b:
        impostor = Link(settings(broker.port, "b", tls=fleet.settings("a", broker.port).tls))
        with connected(impostor, TOPICS.update("b")) as a:
            b.publish(TOPICS.update("b"), b"still here")
            assert received_until(b, b"still here")
            a.subscribe(TOPICS.update("a"))
            a.publish(TOPICS.update("a"), b"own")
            assert received_until(a, b"own") == [b"own"]
        assert b.measure().connections == 1


@pytest.mark.network
def test_a_user_name_that_a_client_claims_does_not_matter(fleet, broker):
    with (
        connected(fleet.link("coordinator", broker.port), TOPICS.all_updates) as hears,
        connected(fleet.link("a", broker.port, username="b", password="b")) as a,
    ):
        a.publish(TOPICS.update("b"), b"forged")
        a.publish(TOPICS.update("a"), b"mine")
        assert received_until(hears, b"mine") == [b"mine"]


# ---------------------------------------------------------------------- who gets in


@pytest.mark.network
def test_a_good_certificate_gets_in(fleet, either):
    with connected(fleet.link("a", either.port)) as link:
        assert link.measure().connected


@pytest.mark.network
def test_no_certificate_is_refused(fleet, either):
    ours = TlsFiles(authority=fleet.pki.folder("broker") / CA_CERTIFICATE)
    assert "certificate" in refusal(settings(either.port, "nobody", tls=ours))


@pytest.mark.network
def test_an_expired_certificate_is_refused(fleet, either):
    fleet.device("late", now=fleet.now - timedelta(days=731))
    assert "certificate" in refusal(fleet.settings("late", either.port))


@pytest.mark.network
def test_a_certificate_of_the_future_is_refused(fleet, either):
    fleet.device("early", now=fleet.now + timedelta(days=2))
    assert "certificate" in refusal(fleet.settings("early", either.port))


@pytest.mark.network
def test_a_certificate_of_another_authority_is_refused(fleet, either, tmp_path):
    other = Fleet(tmp_path)
    other.device("a")
    strange = TlsFiles(
        authority=fleet.pki.folder("broker") / CA_CERTIFICATE,
        certificate=tmp_path / "a" / CERTIFICATE,
        key=tmp_path / "a" / KEY,
    )
    assert "certificate" in refusal(settings(either.port, "a", tls=strange))


@pytest.mark.network
def test_the_brokers_own_certificate_is_no_clients(fleet, broker):
    assert "certificate" in refusal(settings(broker.port, "x", tls=fleet.pki.tls("broker")))


@pytest.mark.network
def test_plain_text_to_the_tls_port_is_refused(fleet, either):
    assert refusal(settings(either.port, "a"))


@pytest.mark.network
def test_a_broker_of_another_authority_is_not_talked_to(fleet, either, tmp_path):
    other = Fleet(tmp_path)
    other.device("a")
    assert "does not verify" in refusal(other.settings("a", either.port))


@pytest.mark.network
def test_a_broker_under_a_name_that_its_certificate_lacks_is_not_talked_to(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.device("a")
    pki.rotate(fleet.pki, "broker", ("elsewhere.example",), fleet.now)
    with start_broker("mosquitto", tls=fleet.listener()) as broker:
        assert "does not verify" in refusal(fleet.settings("a", broker.port))


@pytest.mark.network
@pytest.mark.parametrize("old", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_before_1_2_is_refused(fleet, either, old):
    context = fleet.settings("a", either.port).tls.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = old
    with pytest.raises(ssl.SSLError):
        open_tls(context, either.port)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with open_tls(context, either.port) as opened:
        assert opened.version() == "TLSv1.2"


@pytest.mark.network
def test_a_pinned_certificate_is_the_only_one_that_will_do(fleet, broker, tmp_path):
    other = Fleet(tmp_path)
    pinned = pki.fingerprint(pki.read_certificate(other.pki.folder("broker") / CERTIFICATE))
    wrong = settings(broker.port, "x", tls=TlsPin(certificate_sha256=pinned))
    assert "not the certificate that was pinned" in refusal(wrong)


# ---------------------------------------------------------------------- revocation


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_revocation_reaches_a_running_broker_and_closes_the_open_session(tmp_path, kind):
    fleet = Fleet(tmp_path)
    serials = {name: fleet.device(name) for name in ("a", "b")}
    with start_broker(kind, tls=fleet.listener(), data_dir=tmp_path / "broker") as broker:
        with connected(fleet.link("a", broker.port)) as a, connected(fleet.link("b", broker.port)) as b:
            fleet.revoke(serials["a"], "a")
            assert broker.refresh() == ("a",)
            wait_for(a, Disconnected)
            assert "revoked" in wait_for(a, Disconnected).reason
            b.subscribe(TOPICS.update("b"))
            b.publish(TOPICS.update("b"), b"b stays")
            assert received_until(b, b"b stays")
            assert kind == "embedded" or b.measure().connections == 1
        assert refusal(fleet.settings("a", broker.port))
        assert broker.refresh() == ()


@pytest.mark.network
def test_revocations_in_the_same_second_all_count(tmp_path):
    fleet = Fleet(tmp_path)
    serials = {name: fleet.device(name) for name in ("a", "b", "c", "d")}
    with start_broker("mosquitto", tls=fleet.listener()) as broker:
        for name in ("a", "b", "c"):
            fleet.revoke(serials[name], name)
            assert broker.refresh() == (name,)
            assert refusal(fleet.settings(name, broker.port))
        with connected(fleet.link("d", broker.port)):
            pass
        for name in ("a", "b", "c"):
            assert refusal(fleet.settings(name, broker.port))


@pytest.mark.network
def test_a_revoked_certificate_is_refused_from_the_start(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.revoke(fleet.device("a"), "a")
    with start_broker("mosquitto", tls=fleet.listener()) as broker:
        assert refusal(fleet.settings("a", broker.port))


@pytest.mark.network
def test_a_revoked_client_cannot_resume_its_tls_session(tmp_path):
    fleet = Fleet(tmp_path)
    serial = fleet.device("a")
    with start_broker("mosquitto", tls=fleet.listener()) as broker:
        context = fleet.settings("a", broker.port).tls.context()
        with open_tls(context, broker.port) as first:
            assert speak(first)[0] == 0x20
            ticket = first.session
        with open_tls(context, broker.port, ticket) as again:
            assert speak(again)[0] == 0x20
            assert again.session_reused  # as long as it is good, it is resumed
            ticket = again.session
        fleet.revoke(serial, "a")
        broker.refresh()
        with pytest.raises(OSError), open_tls(context, broker.port, ticket) as revoked:
            answer = speak(revoked)
            raise OSError("closed") if not answer else AssertionError(answer)


@pytest.mark.network
def test_a_rotated_device_keeps_its_session_and_its_queue(tmp_path):
    fleet = Fleet(tmp_path)
    old = fleet.device("a")
    with start_broker("mosquitto", tls=fleet.listener(), data_dir=tmp_path / "broker") as broker:
        with connected(fleet.link("a", broker.port), TOPICS.plan) as before:
            fleet.device("a")  # another key and certificate
            fleet.revoke(old, "a", superseded=True)
            assert broker.refresh() == ("a",)
            wait_for(before, Disconnected)
        with connected(fleet.link("coordinator", broker.port)) as coordinator:
            coordinator.publish(TOPICS.plan, b"while it was away")
            wait_for(coordinator, Delivered)
        with fleet.link("a", broker.port) as after:
            assert wait_for(after, Connected).session_present
            assert wait_for(after, Incoming).payload == b"while it was away"


@pytest.mark.network
def test_a_new_certificate_of_the_broker_is_shown_without_a_restart(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.device("a")
    with (
        start_broker("mosquitto", tls=fleet.listener()) as broker,
        connected(fleet.link("a", broker.port)) as stays,
    ):
        pki.rotate(fleet.pki, "broker", (), fleet.now)
        new = pki.read_certificate(fleet.pki.folder("broker") / CERTIFICATE).serial_number
        assert broker.refresh() == ()
        with open_tls(fleet.settings("a", broker.port).tls.context(), broker.port) as opened:
            assert int(opened.getpeercert()["serialNumber"], 16) == new
        assert stays.measure().connected


@pytest.mark.network
def test_a_key_that_does_not_fit_is_told_and_mended_by_the_next_reading(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.device("a")
    key = fleet.pki.folder("broker") / KEY
    with start_broker("mosquitto", tls=fleet.listener()) as broker:
        right = key.read_bytes()
        pki.write_secret(key, (tmp_path / "a" / KEY).read_bytes())
        with pytest.raises(SanderlingError, match="keeps what it had"):
            broker.refresh()
        pki.write_secret(key, right)
        assert broker.refresh() == ()
        with connected(fleet.link("a", broker.port)):
            pass


@pytest.mark.network
def test_no_other_user_reaches_the_socket_that_closes_connections(fleet, broker):
    path = broker._closing_socket
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_broker_that_does_not_reload_is_said_to(tmp_path, monkeypatch):
    fleet = Fleet(tmp_path)
    monkeypatch.setattr(mosquitto, "_READY_S", 0.0)
    with pytest.raises(SanderlingError, match="waited 0 s for"):
        mosquitto._wait_until(lambda: False, "it")
    assert fleet.listener().revoked.exists()


def refusal(how, timeout_s: float = 10.0) -> str:
    """Why a link with these settings does not get in; AssertionError when it does."""
    with Link(how) as link:
        deadline = time.monotonic() + timeout_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            event = link.next_event(remaining_s)
            assert not isinstance(event, Connected), "it got in"
            if isinstance(event, Disconnected):
                return event.reason
    raise AssertionError("neither in nor refused")


def open_tls(context, port, session=None):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        return context.wrap_socket(raw, server_hostname="localhost", session=session)


def speak(connection) -> bytes:
    """The answer to a CONNECT of MQTT 3.1.1."""
    connection.sendall(b"\x10\x0d\0\4MQTT\4\2\0\x0a\0\1x")
    return connection.recv(4)
