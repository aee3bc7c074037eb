"""Starting and stopping brokers, and what of their state outlives a stop."""

import socket
import threading
import time

import pytest

from sanderling.broker import run
from sanderling.broker.link import Connected, Delivered, Incoming, Link, LinkSettings
from sanderling.broker.messages import MAX_NETWORK_BYTES
from sanderling.broker.mosquitto import Mosquitto, MosquittoConfig, PlainListener, find_mosquitto, free_port
from sanderling.broker.run import start_broker
from sanderling.models.errors import MissingError, SanderlingError

KINDS = ["mosquitto", "embedded"]


def test_the_configuration_listens_on_its_host_alone_and_bounds_every_queue(tmp_path):
    plain = PlainListener(host="127.0.0.1", port=1883)
    lines = MosquittoConfig(listeners=[plain], data_dir=tmp_path).text().splitlines()
    assert [line for line in lines if line.startswith("listener")] == ["listener 1883 127.0.0.1"]
    assert "allow_anonymous true" in lines
    assert "max_queued_messages 10000" in lines
    assert f"max_packet_size {MAX_NETWORK_BYTES + 4096}" in lines
    assert f"persistence_location {tmp_path}/" in lines


def test_auto_takes_mosquitto_where_it_is_and_the_embedded_broker_where_it_is_not(monkeypatch):
    started = []
    monkeypatch.setattr(run, "Mosquitto", lambda listener, data_dir: started.append(listener))
    monkeypatch.setattr(run, "find_mosquitto", lambda: "/somewhere/mosquitto")
    start_broker("auto", port=7)
    assert started == [PlainListener(host="127.0.0.1", port=7)]


def test_mosquitto_asked_for_and_not_installed_names_the_fix(monkeypatch):
    monkeypatch.setattr("sanderling.broker.mosquitto.find_mosquitto", lambda: None)
    with pytest.raises(MissingError, match="apt install mosquitto"):
        start_broker("mosquitto")


@pytest.mark.network
def test_auto_falls_back_to_the_embedded_broker(monkeypatch):
    monkeypatch.setattr(run, "find_mosquitto", lambda: None)
    with start_broker("auto") as broker:
        assert broker.kind == "embedded"


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_takes_connections_until_it_is_stopped_and_leaves_nothing(kind):
    threads = threading.active_count()
    with start_broker(kind) as broker:
        assert broker.kind == kind
        assert broker.port > 0
        assert accepts(broker.host, broker.port)
    assert not accepts(broker.host, broker.port)
    assert threading.active_count() == threads
    broker.stop()


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_a_port_that_is_taken_is_named(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SanderlingError, match=f"did not come up on 127.0.0.1:{port}: .*[Aa]ddress"):
            start_broker(kind, port=port)


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_with_clients_connected_does_not_hang(kind):
    with start_broker(kind) as broker:
        links = [Link(settings(broker.port, f"client-{n}")) for n in range(5)]
        for link in links:
            link.subscribe("t")
            link.start()
        for link in links:
            wait_for(link, Connected)
        for link in links:
            link.publish("t", bytes(1000))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    for link in links:
        link.close()


@pytest.mark.network
def test_mosquitto_keeps_sessions_and_retained_messages_over_a_restart(tmp_path):
    with start_broker("mosquitto", data_dir=tmp_path) as broker:
        with Link(settings(broker.port, "sleeper")) as sleeper:
            sleeper.subscribe("queued")
            wait_for(sleeper, Connected)
            time.sleep(0.05)
        with Link(settings(broker.port, "sender")) as sender:
            sender.publish("queued", b"while you slept")
            sender.publish("kept", b"retained", retain=True)
            wait_for(sender, Delivered), wait_for(sender, Delivered)
    sleeper = Link(settings(broker.port, "sleeper"))
    sleeper.subscribe("queued")
    sleeper.subscribe("kept")
    with start_broker("mosquitto", port=broker.port, data_dir=tmp_path), sleeper:
        assert wait_for(sleeper, Connected).session_present
        messages = {wait_for(sleeper, Incoming).payload, wait_for(sleeper, Incoming).payload}
        assert messages == {b"while you slept", b"retained"}


@pytest.mark.network
def test_a_killed_mosquitto_is_noticed_and_another_takes_its_place(tmp_path):
    port = free_port("127.0.0.1")
    plain = PlainListener(host="127.0.0.1", port=port)
    broker = Mosquitto(plain, data_dir=tmp_path)
    with Link(settings(port, "survivor")) as link:
        wait_for(link, Connected)
        broker.kill()
        with Mosquitto(plain, data_dir=tmp_path):
            wait_for(link, Connected)


def test_mosquitto_is_found_where_debian_puts_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_mosquitto() in (None, "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto")


def accepts(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def settings(port, name):
    return LinkSettings(host="127.0.0.1", port=port, client_id=name, backoff_min_s=0.02, backoff_max_s=0.2)


def wait_for(link, kind, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        if isinstance(event := link.next_event(remaining_s), kind):
            return event
    raise AssertionError(f"no {kind.__name__} in {timeout_s} s")
