"""What a link promises, over both brokers: one contract. Then what it says of servers that are no brokers."""

import contextlib
import itertools
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from sanderling.broker.errors import LinkError, QueueFullError
from sanderling.broker.link import (
    Connected,
    Delivered,
    Disconnected,
    Incoming,
    Link,
    LinkSettings,
    Refused,
    TlsFiles,
    backoff_s,
)
from sanderling.broker.mosquitto import free_port
from sanderling.broker.run import start_broker
from sanderling.models.errors import UsageError
from tests.broker.proxy import Proxy

pytestmark = pytest.mark.network

CONNACK_5 = b"\x20\x03\x00\x00\x00"
_numbers = itertools.count()


@pytest.fixture
def topic():
    return f"test/{next(_numbers)}"


def settings(port, client_id=None, **changes):
    known = {"backoff_min_s": 0.02, "backoff_max_s": 0.2, "connect_timeout_s": 2.0}
    name = client_id or f"client-{next(_numbers)}"
    return LinkSettings(host="127.0.0.1", port=port, client_id=name, **{**known, **changes})


def wait_for(link, kind, count=1, timeout_s=10.0):
    """The next `count` events of `kind`; others are passed over."""
    found, deadline = [], time.monotonic() + timeout_s
    while len(found) < count:
        remaining_s = deadline - time.monotonic()
        assert remaining_s > 0, f"{len(found)} of {count} {kind.__name__} in {timeout_s} s"
        if isinstance(event := link.next_event(remaining_s), kind):
            found.append(event)
    return found[0] if count == 1 else found


def connected(link):
    wait_for(link, Connected)
    return link


def silent(link, topic, quiet_s=0.2):
    """No message on `topic` for a while."""
    deadline = time.monotonic() + quiet_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        event = link.next_event(remaining_s)
        assert not (isinstance(event, Incoming) and event.topic == topic), event
    return True


def subscriber(port, topic, **changes):
    link = Link(settings(port, **changes))
    link.subscribe(topic)
    return link


def publish_all(port, topic, payloads, **how):
    with Link(settings(port)) as link:
        for payload in payloads:
            link.publish(topic, payload, **how)
        wait_for(link, Delivered, len(payloads))


class TestContract:
    def test_the_best_protocol_of_the_broker_is_found_at_once(self, broker):
        began = time.monotonic()
        with Link(settings(broker.port)) as link:
            event = wait_for(link, Connected)
        assert event.protocol == {"mosquitto": "MQTT 5", "embedded": "MQTT 3.1.1"}[broker.kind]
        assert time.monotonic() - began < 1.0

    def test_a_published_message_arrives_and_is_reported_delivered(self, broker, topic):
        with subscriber(broker.port, topic) as receiver, Link(settings(broker.port)) as sender:
            connected(receiver), connected(sender)
            time.sleep(0.05)  # SUBSCRIBE and PUBLISH travel on two connections
            mid = sender.publish(topic, b"payload")
            assert wait_for(sender, Delivered).mid == mid
            incoming = wait_for(receiver, Incoming)
            assert (incoming.topic, incoming.payload, incoming.retain) == (topic, b"payload", False)

    def test_a_wildcard_subscription_gets_every_level(self, broker, topic):
        with subscriber(broker.port, f"{topic}/+/update") as receiver:
            connected(receiver)
            time.sleep(0.05)
            for device in "abc":
                publish_all(broker.port, f"{topic}/{device}/update", [device.encode()])
            publish_all(broker.port, f"{topic}/a/status", [b"no"])
            assert {wait_for(receiver, Incoming).payload for _ in range(3)} == {b"a", b"b", b"c"}
            assert silent(receiver, f"{topic}/a/status")

    def test_a_large_retained_message_reaches_who_subscribes_later(self, broker, topic):
        body = random.Random(1).randbytes(100_000)
        publish_all(broker.port, topic, [body], retain=True)
        with subscriber(broker.port, topic) as receiver:
            incoming = wait_for(receiver, Incoming)
        assert incoming.retain
        assert incoming.payload == body

    def test_an_empty_retained_message_clears_the_topic(self, broker, topic):
        publish_all(broker.port, topic, [b"body"], retain=True)
        publish_all(broker.port, topic, [b""], retain=True)
        with subscriber(broker.port, topic) as receiver:
            connected(receiver)
            assert silent(receiver, topic)

    def test_only_the_retained_messages_of_its_own_subscriptions_reach_a_client(self, broker, topic):
        publish_all(broker.port, f"{topic}/a", [b"a"], retain=True)
        with subscriber(broker.port, f"{topic}/#") as everything:
            wait_for(everything, Incoming)
            with subscriber(broker.port, f"{topic}/b") as narrow:
                connected(narrow)
                assert silent(narrow, f"{topic}/a")

    def test_messages_for_an_absent_client_wait_for_it(self, broker, topic):
        with subscriber(broker.port, topic, client_id=topic[-5:] + "absent") as receiver:
            assert not wait_for(receiver, Connected).session_present
            time.sleep(0.05)
        payloads = [b"%d" % n for n in range(20)]
        publish_all(broker.port, topic, payloads)
        with subscriber(broker.port, topic, client_id=topic[-5:] + "absent") as receiver:
            assert wait_for(receiver, Connected).session_present
            incoming = wait_for(receiver, Incoming, 20)
            assert [message.payload for message in incoming] == payloads
            assert not any(message.retain for message in incoming)

    def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(self, broker, topic):
        name = topic.replace("/", "-")
        with subscriber(broker.port, topic, client_id=name) as receiver:
            connected(receiver)
            time.sleep(0.05)
            publish_all(broker.port, topic, [b"stored", b"crashed before storing"])
            stored, _ = wait_for(receiver, Incoming, 2)
            receiver.acknowledge(stored)
            time.sleep(0.05)
        with subscriber(broker.port, topic, client_id=name) as receiver:
            again = wait_for(receiver, Incoming)
            assert again.payload == b"crashed before storing"
            receiver.acknowledge(again)
            assert silent(receiver, topic)
        with subscriber(broker.port, topic, client_id=name) as receiver:
            connected(receiver)
            assert silent(receiver, topic)

    @pytest.mark.slow
    def test_a_message_held_for_long_is_not_forgotten(self, broker, topic):
        """A service may take its time to store: amqtt on its own gives up after five seconds."""
        with Proxy(broker.port) as proxy, subscriber(proxy.port, topic) as receiver:
            connected(receiver)
            time.sleep(0.05)
            publish_all(broker.port, topic, [b"slow"])
            wait_for(receiver, Incoming)
            time.sleep(5.5 if broker.kind == "embedded" else 0.1)
            proxy.cut()
            assert wait_for(receiver, Incoming).payload == b"slow"

    def test_an_acknowledgement_of_an_old_connection_is_not_taken_for_a_new_message(self, broker, topic):
        with Proxy(broker.port) as proxy, subscriber(proxy.port, topic) as receiver:
            connected(receiver)
            time.sleep(0.05)
            publish_all(broker.port, topic, [b"message"])
            old = wait_for(receiver, Incoming)
            proxy.cut()
            wait_for(receiver, Incoming)
            receiver.acknowledge(old)
            time.sleep(0.05)
            proxy.cut()
            new = wait_for(receiver, Incoming)
            assert new.payload == b"message"
            receiver.acknowledge(new)
            assert silent(receiver, topic)

    def test_no_message_is_lost_when_the_wire_is_cut_in_mid_stream(self, broker, topic):
        payloads = [b"%d" % n for n in range(300)]
        with (
            Proxy(broker.port) as proxy,
            subscriber(broker.port, topic) as receiver,
            Link(settings(proxy.port)) as sender,
        ):
            connected(receiver), connected(sender)
            time.sleep(0.05)
            for number, payload in enumerate(payloads):
                sender.publish(topic, payload)
                if number % 100 == 50:
                    wait_for(sender, Delivered)
                    proxy.cut()
                if number % 100 == 90:
                    connected(sender)
            arrived = set()
            while len(arrived) < len(payloads):
                message = wait_for(receiver, Incoming)
                receiver.acknowledge(message)
                arrived.add(message.payload)
            assert arrived == set(payloads)
            assert sender.measure().connections == 4

    def test_the_will_is_published_when_the_wire_is_cut_and_not_after_a_goodbye(self, broker, topic):
        with Proxy(broker.port) as proxy, subscriber(broker.port, topic) as watcher:
            connected(watcher)
            with Link(settings(proxy.port, will=(topic, b"gone"))) as link:
                connected(link)
            assert silent(watcher, topic)
            lost = Link(settings(proxy.port, will=(topic, b"gone"), backoff_min_s=30.0, backoff_max_s=60.0))
            with lost:
                connected(lost)
                proxy.cut()
                assert wait_for(watcher, Incoming).payload == b"gone"
        with subscriber(broker.port, topic) as later:
            assert wait_for(later, Incoming).retain

    def test_what_is_published_before_a_connection_is_delivered_after(self, broker, topic):
        with subscriber(broker.port, topic) as receiver:
            connected(receiver).publish(f"{topic}/behind", b"")
            wait_for(receiver, Delivered)  # so the SUBSCRIBE before it was taken
            sender = Link(settings(broker.port))
            mid = sender.publish(topic, b"early")
            with sender:
                assert wait_for(sender, Delivered).mid == mid
            assert wait_for(receiver, Incoming).payload == b"early"

    def test_after_unsubscribe_nothing_comes_even_over_a_new_connection(self, broker, topic):
        with Proxy(broker.port) as proxy, subscriber(proxy.port, topic) as receiver:
            connected(receiver)
            receiver.subscribe(f"{topic}/kept")
            receiver.unsubscribe(topic)
            time.sleep(0.05)
            publish_all(broker.port, topic, [b"no"])
            assert silent(receiver, topic)
            proxy.cut()
            connected(receiver)
            publish_all(broker.port, topic, [b"no"])
            publish_all(broker.port, f"{topic}/kept", [b"yes"])
            assert wait_for(receiver, Incoming).payload == b"yes"

    def test_of_two_links_with_one_name_the_later_takes_over(self, broker, topic):
        name = topic.replace("/", "-")
        first = subscriber(broker.port, topic, client_id=name, backoff_min_s=30.0, backoff_max_s=60.0)
        with first:
            connected(first)
            with subscriber(broker.port, topic, client_id=name) as second:
                connected(second)
                wait_for(first, Disconnected)
                time.sleep(0.05)
                publish_all(broker.port, topic, [b"to the second"])
                assert wait_for(second, Incoming).payload == b"to the second"

    def test_many_clients_connecting_at_once_each_get_their_own(self, broker, topic):
        links = [subscriber(broker.port, f"{topic}/{n}") for n in range(20)]
        for n in range(20):
            publish_all(broker.port, f"{topic}/{n}", [b"%d" % n], retain=True)
        for link in links:
            link.start()
        try:
            for n, link in enumerate(links):
                assert wait_for(link, Incoming).payload == b"%d" % n
        finally:
            for link in links:
                link.close()

    def test_close_flushes_what_is_queued_if_asked_to(self, broker, topic):
        with subscriber(broker.port, topic) as receiver:
            connected(receiver)
            time.sleep(0.05)
            sender = Link(settings(broker.port))
            sender.start()
            for n in range(100):
                sender.publish(topic, b"%d" % n)
            sender.close(flush_s=5.0)
            assert len(wait_for(receiver, Incoming, 100)) == 100

    def test_a_link_can_be_closed_at_any_instant(self, broker, topic):
        rng = random.Random(3)
        for _ in range(40):
            link = subscriber(broker.port, topic)
            link.start()
            link.publish(topic, bytes(2000))
            time.sleep(rng.random() * 0.01)
            link.close()
            link.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("link ")]

    def test_it_measures_itself_from_acknowledgements(self, broker, topic):
        with subscriber(broker.port, topic) as link:
            connected(link)
            time.sleep(0.05)
            for _ in range(5):
                link.publish(topic, bytes(1000))
                wait_for(link, Delivered)
            while link.measure().payload_bytes_down < 5000:
                wait_for(link, Incoming)
            measure = link.measure()
        assert measure.connected
        assert measure.payload_bytes_up == measure.payload_bytes_down == 5000
        assert measure.queued_messages == measure.queued_bytes == 0
        assert 0 < measure.round_trip_s < 1
        assert measure.goodput_bytes_s > 1000
        assert measure.connections == 1


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_link_waits_for_a_broker_and_outlives_its_restart(kind, topic, tmp_path):
    port = free_port("127.0.0.1")
    with subscriber(port, topic) as receiver, Link(settings(port)) as sender:
        assert "is the broker running there?" in wait_for(sender, Disconnected).reason
        for payload in (b"before", b"after"):
            with start_broker(kind, port=port, data_dir=tmp_path):
                connected(receiver), connected(sender)
                time.sleep(0.05)
                sender.publish(topic, payload)
                wait_for(sender, Delivered)
                message = wait_for(receiver, Incoming)
                assert message.payload == payload
                receiver.acknowledge(message)
                time.sleep(0.05)
            wait_for(receiver, Disconnected), wait_for(sender, Disconnected)


def test_a_link_follows_a_broker_that_is_replaced_by_one_of_another_protocol(topic):
    port = free_port("127.0.0.1")
    with subscriber(port, topic) as link:
        for kind, protocol in [("mosquitto", "MQTT 5"), ("embedded", "MQTT 3.1.1"), ("mosquitto", None)]:
            with start_broker(kind, port=port):
                event = wait_for(link, Connected)
                assert protocol in (None, event.protocol)
                link.publish(topic, kind.encode())
                message = wait_for(link, Incoming)
                assert message.payload == kind.encode()
                link.acknowledge(message)


def test_on_mqtt_5_a_reconnect_does_not_fetch_retained_messages_again(topic):
    with start_broker("mosquitto") as broker, Proxy(broker.port) as proxy:
        publish_all(broker.port, topic, [bytes(1000)], retain=True)
        with subscriber(proxy.port, topic) as link:
            link.acknowledge(wait_for(link, Incoming))
            time.sleep(0.05)
            proxy.cut()
            connected(link)
            assert silent(link, topic)
            assert link.measure().payload_bytes_down == 1000


class TestReasons:
    """What the first event says when there is no broker to talk to."""

    def reason(self, **changes):
        changes = {"port": 1, "connect_timeout_s": 0.3, **changes}
        with Link(settings(**changes)) as link:
            return wait_for(link, Disconnected).reason

    def test_nobody_listens(self):
        port = free_port("127.0.0.1")
        assert self.reason(port=port) == (
            f"127.0.0.1:{port} refused the connection: is the broker running there?"
        )

    def test_a_name_that_does_not_resolve(self):
        link = Link(LinkSettings(host="no-such-host.invalid", port=1883, client_id="c"))
        with link:
            assert (
                "cannot resolve 'no-such-host.invalid'" in wait_for(link, Disconnected, timeout_s=30).reason
            )

    def test_a_server_that_says_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert "is it an MQTT broker?" in self.reason(port=server.getsockname()[1])

    def test_a_server_that_hangs_up(self):
        with scripted(b"") as port:
            assert "closed the connection instead of answering CONNECT" in self.reason(port=port)

    @pytest.mark.parametrize(
        "bytes_sent",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n" * 8,
            b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8,
            b"\x20\xff\xff\xff\xff\xff",
            b"\x20\x00",
            b"\x20\x03\x00\x00\x05",
            b"\x20\x03\x00\x00\x00" + b"\x30\x02\xff\xff" * 3,
            b"\x20\x03\x00\x00\x00" + b"\x90\x00\xb0\x00\x40\x00",
        ],
    )
    def test_a_server_that_sends_what_is_not_mqtt(self, bytes_sent):
        with scripted(bytes_sent) as port:
            assert self.reason(port=port)

    def test_a_broker_that_says_no(self):
        with scripted(b"\x20\x03\x00\x87\x00") as port:
            assert "refused the connection: Not authorized" in self.reason(port=port)

    def test_tls_to_a_port_without(self, broker, tmp_path):
        authority = tmp_path / "ca.pem"
        authority.write_bytes(_any_certificate())
        assert "is it a TLS port?" in self.reason(port=broker.port, tls=TlsFiles(authority=authority))

    def test_tls_files_that_are_not_there_are_a_usage_error(self, tmp_path):
        link = Link(settings(1, tls=TlsFiles(authority=tmp_path / "missing.pem")))
        with pytest.raises(UsageError, match=r"missing\.pem"):
            link.start()
        link.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two self-signed certificates for localhost: a broker's, and a stranger's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("pki")
    for name in ("broker", "stranger"):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
                *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


class TestTls:
    def settings(self, port, authority):
        return replace(settings(port, tls=TlsFiles(authority=authority)), host="localhost")

    def test_a_link_connects_over_tls_and_takes_messages_that_fill_one_record(self, certificates):
        publishes = b"".join(b"\x30\x05\x00\x01t\x00%d" % n for n in range(8))
        with scripted(CONNACK_5 + publishes, certificate=certificates / "broker") as port:
            link = Link(self.settings(port, certificates / "broker.pem"))
            with link:
                assert wait_for(link, Connected).protocol == "MQTT 5"
                assert [message.payload for message in wait_for(link, Incoming, 8)] == [
                    b"%d" % n for n in range(8)
                ]

    def test_a_certificate_of_another_authority_is_named(self, certificates):
        with (
            scripted(CONNACK_5, certificate=certificates / "broker") as port,
            Link(self.settings(port, certificates / "stranger.pem")) as link,
        ):
            assert "does not verify" in wait_for(link, Disconnected).reason


def test_a_broker_that_refuses_one_message_is_reported_with_its_reason():
    puback_quota_exceeded = b"\x40\x03\x00\x01\x97"
    with scripted(CONNACK_5, puback_quota_exceeded) as port, Link(settings(port)) as link:
        connected(link)
        mid = link.publish("t", b"payload")
        assert wait_for(link, Refused) == Refused(mid=mid, reason="Quota exceeded")
        assert link.measure().queued_messages == 0


def test_a_full_queue_a_large_packet_and_a_bad_topic_are_refused_at_once():
    link = Link(settings(1, max_queued_messages=2, max_packet_bytes=1000))
    link.publish("t", b""), link.publish("t", b"")
    with pytest.raises(QueueFullError, match="2 messages"):
        link.publish("t", b"")
    with pytest.raises(LinkError, match="2000 bytes"):
        link.publish("t", bytes(2000))
    for topic in ("", "a/+", "#", "a\0"):
        with pytest.raises(UsageError, match="cannot publish"):
            link.publish(topic, b"")
    for topic in ("", "a#", "a/#/b", "a+/b"):
        with pytest.raises(UsageError, match="cannot subscribe"):
            link.subscribe(topic)
    with pytest.raises(UsageError, match="QoS 2"):
        link.publish("t", b"", qos=2)
    link.close()


def test_backoff_doubles_to_its_limit_and_spreads_over_half_of_it():
    rng = random.Random(1)
    for failures, whole in [(0, 0.5), (1, 1.0), (3, 4.0), (7, 60.0), (10_000, 60.0)]:
        waits = [backoff_s(failures, 0.5, 60.0, rng) for _ in range(200)]
        assert whole / 2 <= min(waits) < 0.55 * whole
        assert 0.95 * whole < max(waits) <= whole


class scripted:  # noqa: N801
    """A server that answers the n-th packet it reads with the n-th of `answers`, then hangs up."""

    def __init__(self, *answers, certificate=None):
        self._answers = answers
        self._server = socket.create_server(("127.0.0.1", 0))
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.with_suffix(".pem"), certificate.with_suffix(".key"))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self._server.getsockname()[1]

    def __exit__(self, *error):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _run(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                if self._tls is None:
                    self._answer(connection)
                    continue
                with self._tls.wrap_socket(connection, server_side=True) as wrapped:
                    self._answer(wrapped)

    def _answer(self, connection):
        for answer in self._answers:
            connection.recv(65536)
            connection.sendall(answer)


def _any_certificate():
    store = ssl.create_default_context()
    return ssl.DER_cert_to_PEM_cert(store.get_ca_certs(binary_form=True)[0]).encode()
