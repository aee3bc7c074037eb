"""Each planted fault, on a real mosquitto: the doctor names the hop where it is, and disturbs nobody."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sanderling.broker import acl, announcements, pki
from sanderling.broker.announcements import Kind
from sanderling.broker.doctor import Credentials, Hop, HopError, Node, NotTriedError, Visit, walk
from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY, tls_files
from sanderling.broker.link import Connected, Delivered, Incoming
from sanderling.broker.messages import ModelBody, ModelReference, RoundPlan, TrainingPlan, UpdatePlan
from sanderling.broker.mosquitto import free_port
from sanderling.broker.mqtt_client import TlsFiles
from sanderling.broker.run import start_broker
from sanderling.models.errors import UsageError
from sanderling.models.updates import GlobalModel
from tests.broker.fleet import FEDERATION, TOPICS, Fleet, connected, wait_for

HOPS = [
    "configuration",
    "identity",
    "dns",
    "port",
    "tls",
    "admission",
    "session",
    "access",
    "plan",
    "federation",
    "model",
]
MODEL = GlobalModel(version=7, backbone_hash=bytes(32), theta=np.arange(6, dtype=np.int32))
BODY = ModelBody.of(MODEL).encode()
PLAN = RoundPlan(
    federation=FEDERATION,
    run="r",
    round=3,
    phase="round",
    cohort=("a",),
    deadline_unix_s=None,
    arithmetic="exact",
    model=ModelReference(
        version=7,
        model_hash=MODEL.model_hash,
        body_bytes=len(BODY),
        network_hash=bytes(32),
        network_bytes=1,
    ),
    training=TrainingPlan(epochs=1, batch_size=16, learning_rate_q16=1, proximal_mu_q16=0, seed=1),
    update=UpdatePlan(mode="mask", coordinates=3, mask_epoch=0, clipping_norm=0, scale_shift=0),
    evaluate=(),
)


@dataclass
class Ward:
    """A fleet of one device with its broker, and the doctor at its door."""

    fleet: Fleet
    port: int

    def hops(self, *, tls: TlsFiles | None = None, timeout_s: float = 5.0, now=None, **changes) -> list[Hop]:
        key = pki.read_key(self.fleet.pki.folder("coordinator") / pki.SIGNING_KEY)
        node = Node(
            federation=FEDERATION,
            name="a",
            host="localhost",
            port=self.port,
            own_topic=TOPICS.doctor("a"),
            credentials=lambda: Credentials(
                tls=tls or tls_files(self.fleet.directory / "a"), signer=key.public_key
            ),
            running=lambda: False,
        )
        with Visit(lambda: replace(node, **changes), now=now or pki.utc_now(), timeout_s=timeout_s) as visit:
            return list(walk(visit.way()))

    def failure(self, **how) -> Hop:
        """The one hop that fails: all before it are well, and none after it is tried."""
        hops = self.hops(**how)
        assert [hop.name for hop in hops] == HOPS
        states = [hop.state for hop in hops]
        at = states.index("failed")
        assert states == ["ok"] * at + ["failed"] + ["not tried"] * (len(HOPS) - at - 1)
        assert hops[at].exit_status == 4
        assert hops[at].fix
        return hops[at]

    def announce(self, plan: bytes | None = None, body: bytes | None = BODY) -> None:
        with connected(self.fleet.link("coordinator", self.port)) as coordinator:
            for topic, payload in (
                (TOPICS.plan, plan or PLAN.encode()),
                (TOPICS.model(MODEL.model_hash), body),
            ):
                if payload is not None:
                    coordinator.publish(topic, payload, retain=True)
                    wait_for(coordinator, Delivered)


@contextmanager
def ward(fleet: Fleet, **listener):
    with start_broker("mosquitto", tls=replace(fleet.listener(), **listener)) as broker:
        yield Ward(fleet, broker.port)


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.device("a")
    return fleet


# ---------------------------------------------------------------------- the walk


def test_no_hop_is_tried_after_the_first_that_fails():
    tried = []

    def check(name):
        tried.append(name)
        if name == "b":
            raise HopError("broken", "mend it")
        return name.upper()

    hops = walk((name, lambda name=name: check(name)) for name in "abc")
    assert tried == ["a", "b"]
    assert hops == (
        Hop(name="a", state="ok", detail="A"),
        Hop(name="b", state="failed", detail="broken", fix="mend it", exit_status=4),
        Hop(name="c", state="not tried"),
    )


def test_what_would_do_harm_ends_the_walk_without_a_fault():
    def harmful():
        raise NotTriedError("it runs")

    first, second = walk([("a", harmful), ("b", lambda: pytest.fail("tried"))])
    assert (first.state, first.detail, first.exit_status) == ("not tried", "it runs", 0)
    assert second.state == "not tried"


def test_an_error_of_ours_keeps_its_words_and_its_exit_status():
    def wrong():
        raise UsageError("line 3: unknown key")

    (hop,) = walk([("a", wrong)])
    assert (hop.state, hop.detail, hop.exit_status) == ("failed", "line 3: unknown key", 2)


# ---------------------------------------------------------------------- a way that is well


@pytest.mark.network
@pytest.mark.parametrize("signed", [False, True])
def test_a_good_way_is_well_to_its_end(fleet, signed):
    plan = PLAN.encode()
    if signed:
        key = pki.read_key(fleet.pki.folder("coordinator") / pki.SIGNING_KEY)
        plan = announcements.sign(plan, key, federation=FEDERATION, kind=Kind.PLAN, sequence=1)
    with ward(fleet) as at:
        at.announce(plan)
        hops = at.hops()
        assert [(hop.name, hop.state) for hop in hops] == [(name, "ok") for name in HOPS]
        assert "version 7" in hops[-1].detail
        assert "round 3" in hops[-2].detail
        coordinator = at.hops(
            name="coordinator",
            tls=tls_files(fleet.pki.folder("coordinator")),
            own_topic=TOPICS.model(bytes(32)),
        )
        assert {hop.state for hop in coordinator} == {"ok"}


@pytest.mark.network
@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_plain_way_is_well_to_its_end(fleet, kind):
    with start_broker(kind) as broker:
        at = Ward(fleet, broker.port)
        with connected(fleet.link("a", broker.port, tls=None)) as link:
            link.publish(TOPICS.plan, PLAN.encode(), retain=True)
            link.publish(TOPICS.model(MODEL.model_hash), BODY, retain=True)
            wait_for(link, Delivered)
            wait_for(link, Delivered)
            hops = at.hops(host="127.0.0.1", credentials=lambda: None, running=lambda: True)
            assert {hop.state for hop in hops} == {"ok"}
            assert link.measure().connections == 1


# ---------------------------------------------------------------------- planted faults


def test_a_certificate_that_is_out_of_date_by_this_clock_fails_first(fleet):
    at = Ward(fleet, 1)
    late = at.failure(now=fleet.now + timedelta(days=731))
    assert (late.name, "device rotate a" in late.fix) == ("identity", True)
    early = at.failure(now=fleet.now - timedelta(days=2))
    assert (early.name, "clock" in early.fix) == ("identity", True)


def test_the_certificate_of_another_node_fails_first(fleet):
    fleet.device("b")
    failed = Ward(fleet, 1).failure(tls=tls_files(fleet.directory / "b"))
    assert (failed.name, "is of b, not of a" in failed.detail) == ("identity", True)


def test_a_name_without_an_address_fails_at_dns(fleet):
    assert Ward(fleet, 1).failure(host="broker.invalid").name == "dns"


@pytest.mark.network
def test_a_closed_port_fails_at_the_port(fleet):
    failed = Ward(fleet, free_port("127.0.0.1")).failure(host="127.0.0.1")
    assert (failed.name, "broker run" in failed.fix) == ("port", True)


@pytest.mark.network
def test_a_plain_port_where_tls_is_meant_fails_at_tls(fleet):
    with start_broker("mosquitto") as broker:
        failed = Ward(fleet, broker.port).failure(host="127.0.0.1")
    assert (failed.name, "does not speak TLS" in failed.detail) == ("tls", True)


@pytest.mark.network
def test_a_tls_port_where_plain_text_is_meant_fails_at_admission(fleet):
    with ward(fleet) as at:
        failed = at.failure(credentials=lambda: None, host="127.0.0.1", timeout_s=1.0)
    assert (failed.name, 'security.mode = "tls"' in failed.fix) == ("admission", True)


@pytest.mark.network
def test_a_wrong_host_name_fails_at_tls_with_the_names_that_would_do(fleet):
    pki.rotate(fleet.pki, "broker", ("elsewhere.example",), fleet.now)
    with ward(fleet) as at:
        failed = at.failure()
    assert failed.name == "tls"
    assert "not for localhost; it is for" in failed.detail
    assert "elsewhere.example" in failed.detail
    assert "pki rotate broker --host localhost" in failed.fix


@pytest.mark.network
@pytest.mark.parametrize("days", [-731, 2])
def test_a_broker_whose_certificate_is_out_of_date_fails_at_tls(fleet, days):
    pki.rotate(fleet.pki, "broker", ("localhost",), fleet.now + timedelta(days=days))
    with ward(fleet) as at:
        failed = at.failure()
    assert (failed.name, "this clock says" in failed.detail, "clock" in failed.fix) == ("tls", True, True)


@pytest.mark.network
def test_a_broker_of_another_authority_fails_at_tls(fleet, tmp_path):
    with ward(Fleet(tmp_path / "other")) as at:
        failed = Ward(fleet, at.port).failure()
    assert (failed.name, "another authority" in failed.detail) == ("tls", True)


@pytest.mark.network
def test_a_certificate_of_another_authority_fails_at_admission(fleet, tmp_path):
    other = Fleet(tmp_path / "other")
    other.device("a")
    strange = TlsFiles(
        authority=fleet.directory / "a" / CA_CERTIFICATE,
        certificate=other.directory / "a" / CERTIFICATE,
        key=other.directory / "a" / KEY,
    )
    with ward(fleet) as at:
        failed = at.failure(tls=strange)
    assert (failed.name, "unknown ca" in failed.detail) == ("admission", True)


@pytest.mark.network
def test_a_revoked_certificate_fails_at_admission(fleet):
    fleet.revoke(fleet.device("a"), "a")
    with ward(fleet) as at:
        failed = at.failure()
    assert (failed.name, "certificate revoked" in failed.detail) == ("admission", True)


@pytest.mark.network
def test_the_access_rules_of_another_federation_fail_at_access(fleet):
    with ward(fleet, rules=acl.fleet("other")) as at:
        failed = at.failure()
    assert (failed.name, "federation.name = fed" in failed.fix) == ("access", True)


@pytest.mark.network
def test_no_plan_fails_at_the_plan(fleet):
    with ward(fleet) as at:
        failed = at.failure(timeout_s=1.0)
    assert (failed.name, "coordinator run" in failed.fix) == ("plan", True)


@pytest.mark.network
@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (replace(PLAN, federation="other").encode(), "of other, not of fed"),
        (
            announcements.sign(
                PLAN.encode(),
                Ed25519PrivateKey.from_private_bytes(bytes(32)),
                federation=FEDERATION,
                kind=Kind.PLAN,
                sequence=1,
            ),
            "does not fit",
        ),
        (b"\xa1\x00\x63", "cannot be believed"),
    ],
)
def test_a_plan_that_is_not_ours_fails_at_the_federation(fleet, plan, says):
    with ward(fleet) as at:
        at.announce(plan)
        failed = at.failure()
    assert (failed.name, says in failed.detail) == ("federation", True)


@pytest.mark.network
@pytest.mark.parametrize(
    "body", [None, ModelBody.of(replace(MODEL, theta=MODEL.theta + 1)).encode(), b"\x80"]
)
def test_a_model_that_is_not_the_plans_fails_at_the_model(fleet, body):
    with ward(fleet) as at:
        at.announce(body=body)
        failed = at.failure(timeout_s=1.0)
    assert (failed.name, "version 7" in failed.detail) == ("model", True)


# ---------------------------------------------------------------------- nobody is disturbed


@pytest.mark.network
def test_a_node_that_runs_is_left_alone(fleet):
    with ward(fleet) as at, connected(fleet.link("a", at.port)) as running:
        hops = at.hops(running=lambda: True)
        assert [hop.state for hop in hops] == ["ok"] * 6 + ["not tried"] * 5
        assert "stop it" in hops[6].detail
        mid = running.publish(TOPICS.status("a"), b"still here")
        assert wait_for(running, Delivered).mid == mid
        assert running.measure().connections == 1


@pytest.mark.network
def test_a_node_finds_no_session_that_it_did_not_have(fleet):
    with ward(fleet) as at:
        at.announce()
        assert {hop.state for hop in at.hops()} == {"ok"}
        with fleet.link("a", at.port) as node:
            assert not wait_for(node, Connected).session_present


@pytest.mark.network
def test_what_is_queued_for_a_node_waits_for_it_and_does_not_hide_the_plan_of_now(fleet):
    with ward(fleet) as at:
        with connected(fleet.link("a", at.port), TOPICS.plan):
            pass
        older = [replace(PLAN, round=number).encode() for number in range(100, 250)]
        with connected(fleet.link("coordinator", at.port)) as coordinator:
            for plan in older:  # more than a client takes at once without acknowledging
                coordinator.publish(TOPICS.plan, plan, retain=True)
            for _ in older:
                wait_for(coordinator, Delivered)
        at.announce()
        hops = at.hops()
        assert {hop.state for hop in hops} == {"ok"}
        assert "round 3" in hops[-2].detail
        with fleet.link("a", at.port) as node:
            assert wait_for(node, Connected).session_present
            came = []
            while len(came) < len(older):
                incoming = wait_for(node, Incoming)
                node.acknowledge(incoming)
                came.append(incoming.payload)
        assert came == older


@pytest.mark.network
def test_the_retained_status_of_a_node_stays(fleet):
    with ward(fleet) as at:
        at.announce()
        with connected(fleet.link("a", at.port)) as node:
            node.publish(TOPICS.status("a"), b"offline", retain=True)
            wait_for(node, Delivered)
        at.hops()
        hears = fleet.link("coordinator", at.port)
        hears.subscribe(TOPICS.all_statuses)
        with hears:
            incoming = wait_for(hears, Incoming)
    assert (incoming.payload, incoming.retain) == (b"offline", True)
