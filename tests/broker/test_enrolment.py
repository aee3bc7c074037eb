"""Enrolment: what a token is good for, what one learns who reads or changes all that crosses, and what an interruption leaves."""

import json
import os
import shutil
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import counters, enrolment, pki
from sanderling.broker.acl import enrolment as enrolment_rules
from sanderling.broker.desk import Desk, Reach
from sanderling.broker.enrolment import (
    CoordinatorKeys,
    EnrolmentError,
    Grant,
    Request,
    Token,
    accept,
    begin,
    open_reply,
    open_request,
    seal_reply,
    seal_request,
)
from sanderling.broker.enrolment_service import EnrolmentService, RateLimit, enrol
from sanderling.broker.link import Disconnected, Link, TlsPin
from sanderling.broker.registry import Registry
from sanderling.broker.run import start_broker
from sanderling.broker.topics import Topics
from sanderling.models.errors import MissingError, UsageError
from tests.broker.fleet import connected, received_until, wait_for
from tests.broker.fleet import settings as link_settings

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
REACH = Reach(host="broker.local", port=8884, valid_s=3600)
TOPICS = Topics("fed")


@pytest.fixture
def directory(tmp_path):
    pki.initialise(tmp_path / "pki", federation="fed", hosts=("localhost",), now=NOW)
    return tmp_path / "pki"


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk(directory, clock):
    with Desk(directory, clock=clock) as desk:
        yield desk


def enrolled(desk, folder, device="watch-04", **how):
    token = desk.invite("fed", device, REACH, **how)
    return accept(folder, desk.answer(token.id, begin(folder, token, os.urandom)))


def refused(reason, call, *arguments):
    with pytest.raises(EnrolmentError) as caught:
        call(*arguments)
    assert caught.value.reason == reason


def listed(directory):
    return pki.notices((directory / "broker" / pki.REVOKED).read_bytes())


# ---------------------------------------------------------------------- the token


def test_a_token_is_one_line_that_reads_back(desk):
    token = desk.invite("fed", "watch-04", REACH)
    assert Token.parse(f" {token.text()}\n") == token
    assert len(token.text()) < 300
    assert "\n" not in token.text()
    assert token.expires == int(NOW.timestamp()) + 3600


def test_a_token_never_shows_its_secret_when_it_is_printed(desk):
    token = desk.invite("fed", "watch-04", REACH)
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_token_is_refused_or_another_well_formed_one(data):
    whole = Token(
        federation="fed",
        id="00" * 16,
        device_id="watch-04",
        secret=bytes(32),
        signer_sha256=bytes(32),
        server_sha256=bytes(32),
        host="broker.local",
        port=8884,
        expires=2**31,
    ).text()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + data.draw(st.text(max_size=3)) + whole[place + data.draw(st.integers(0, 9)) :]
    try:
        token = Token.parse(damaged)
    except UsageError:
        return
    assert Token.parse(token.text()) == token


def test_reserved_and_impossible_names_are_not_invited(desk):
    for name in ("coordinator", "broker", "enrolment", "a/b", "+", ""):
        with pytest.raises(UsageError):
            desk.invite("fed", name, REACH)


# ---------------------------------------------------------------------- a whole enrolment


def test_an_enrolled_device_has_a_certificate_for_its_own_key_and_knows_the_coordinator(
    desk, directory, tmp_path
):
    identity = enrolled(desk, tmp_path / "identity")
    names = {file.name for file in (tmp_path / "identity").iterdir()}
    assert names == {"ca.pem", "certificate.pem", "key.pem", "agreement.key", "coordinator.json", "nonces"}
    assert (
        counters.restored(
            (tmp_path / "identity" / "nonces").read_bytes(),
            desk.registry.members(NOW)["watch-04"].agreement_key,
        ).used
        == 0
    )
    assert identity.enrolled_ms == int(NOW.timestamp() * 1000)
    assert not (tmp_path / "identity.pending").exists()
    certificate = pki.read_certificate(tmp_path / "identity" / "certificate.pem")
    assert pki.common_name(certificate) == "watch-04"
    assert certificate.public_key() == pki.read_key(tmp_path / "identity" / "key.pem").public_key()
    assert (tmp_path / "identity" / "ca.pem").read_bytes() == (directory / "broker" / "ca.pem").read_bytes()
    issued = desk.registry.members(NOW)["watch-04"]
    assert issued.serial == certificate.serial_number
    assert issued.agreement_key == enrolment.agreement_key(identity).public_key().public_bytes_raw()
    agreement = pki.read_key(directory / "coordinator" / pki.AGREEMENT_KEY)
    assert identity.coordinator.agreement == agreement.public_key().public_bytes_raw()
    signing = pki.read_key(directory / "coordinator" / pki.SIGNING_KEY)
    assert identity.coordinator.signing == signing.public_key().public_bytes_raw()


def test_secrets_of_a_device_are_readable_to_their_owner_alone(desk, tmp_path):
    token = desk.invite("fed", "watch-04", REACH)
    begin(tmp_path / "identity", token, os.urandom)
    for name in ("key.pem", "agreement.key", "token"):
        assert stat.S_IMODE((tmp_path / "identity.pending" / name).stat().st_mode) == 0o600


def test_private_keys_never_reach_the_authority(desk, tmp_path, directory):
    enrolled(desk, tmp_path / "identity")
    key = pki.read_key(tmp_path / "identity" / "key.pem").private_numbers().private_value.to_bytes(32, "big")
    secret = pki.read_key(tmp_path / "identity" / "agreement.key").private_bytes_raw()
    for file in directory.rglob("*"):
        if file.is_file():
            assert key not in file.read_bytes()
            assert secret not in file.read_bytes()


def test_a_used_token_is_forgotten_by_both_sides(desk, tmp_path, directory):
    token = desk.invite("fed", "watch-04", REACH)
    reply = desk.answer(token.id, begin(tmp_path / "identity", token, os.urandom))
    accept(tmp_path / "identity", reply)
    desk.registry.close()
    for folder in (tmp_path / "identity", directory):
        for file in folder.rglob("*"):
            if file.is_file():
                assert token.secret not in file.read_bytes(), file
                assert token.text().encode() not in file.read_bytes(), file


# ---------------------------------------------------------------------- once, and not for ever


def test_the_same_request_gets_the_same_reply_however_often(desk, tmp_path):
    token = desk.invite("fed", "watch-04", REACH)
    message = begin(tmp_path / "identity", token, os.urandom)
    assert desk.answer(token.id, message) == desk.answer(token.id, message)
    assert len(desk.registry.certificates()) == 1


def test_a_token_is_used_once(desk, tmp_path, directory, clock):
    token = desk.invite("fed", "watch-04", REACH)
    desk.answer(token.id, begin(tmp_path / "a", token, os.urandom))
    other = begin(tmp_path / "b", token, os.urandom)
    refused("used_token", desk.answer, token.id, other)
    with Desk(directory, clock=clock) as later:  # after a restart, too
        refused("used_token", later.answer, token.id, other)
        assert len(later.registry.certificates()) == 1


def test_an_expired_token_is_refused_and_an_answered_one_is_answered_still(desk, tmp_path, clock):
    used, late = desk.invite("fed", "watch-04", REACH), desk.invite("fed", "watch-05", REACH)
    message = begin(tmp_path / "a", used, os.urandom)
    reply = desk.answer(used.id, message)
    clock.now = NOW + timedelta(seconds=3601)
    refused("expired_token", desk.answer, late.id, begin(tmp_path / "b", late, os.urandom))
    assert desk.answer(used.id, message) == reply
    assert desk.registry.open_tokens(clock.now) == ()


def test_a_token_that_was_never_given_is_refused(desk, tmp_path):
    token = replace(desk.invite("fed", "watch-04", REACH), id="11" * 16)
    refused("unknown_token", desk.answer, token.id, begin(tmp_path / "a", token, os.urandom))


def test_a_new_token_closes_the_one_before(desk, tmp_path):
    first, second = desk.invite("fed", "watch-04", REACH), desk.invite("fed", "watch-04", REACH)
    refused("unknown_token", desk.answer, first.id, begin(tmp_path / "a", first, os.urandom))
    assert desk.answer(second.id, begin(tmp_path / "b", second, os.urandom))


def test_an_enrolled_device_is_rotated_not_enrolled_and_the_other_way_round(desk, tmp_path):
    with pytest.raises(UsageError, match="not enrolled: use `sanderling device enroll`"):
        desk.invite("fed", "watch-04", REACH, replaces=True)
    enrolled(desk, tmp_path / "identity")
    with pytest.raises(UsageError, match="sanderling device rotate"):
        desk.invite("fed", "watch-04", REACH)


def test_two_desks_answer_one_token_once(desk, directory, clock, tmp_path, monkeypatch):
    token = desk.invite("fed", "watch-04", REACH)
    ours, theirs = (begin(tmp_path / name, token, os.urandom) for name in "ab")
    grant = Desk._grant

    def interrupted(self, *arguments):
        monkeypatch.setattr(Desk, "_grant", grant)
        with Desk(directory, clock=clock) as other:
            other.answer(token.id, theirs)
        return grant(self, *arguments)

    monkeypatch.setattr(Desk, "_grant", interrupted)
    refused("used_token", desk.answer, token.id, ours)
    assert len(desk.registry.certificates()) == 1


# ---------------------------------------------------------------------- rotation, revocation


def test_rotation_gives_new_keys_and_revokes_the_old_certificate(desk, tmp_path, directory):
    enrolled(desk, tmp_path / "identity")
    (old,) = desk.registry.certificates()
    token = desk.invite("fed", "watch-04", REACH, replaces=True)
    assert listed(directory) == {}  # until the new one is there, the old one is good
    accept(tmp_path / "identity", desk.answer(token.id, begin(tmp_path / "identity", token, os.urandom)))
    new = desk.registry.members(NOW)["watch-04"]
    assert new.serial != old.serial
    assert new.agreement_key != old.agreement_key
    assert listed(directory) == {old.serial: ("watch-04", True)}
    certificate = pki.read_certificate(tmp_path / "identity" / "certificate.pem")
    assert certificate.serial_number == new.serial
    assert not (tmp_path / "identity.old").exists()


def test_a_revoked_device_is_no_member_and_its_open_token_is_closed(desk, tmp_path, directory):
    enrolled(desk, tmp_path / "identity")
    token = desk.invite("fed", "watch-04", REACH, replaces=True)
    assert desk.revoke("watch-04") == 1
    (issued,) = desk.registry.certificates()
    assert listed(directory) == {issued.serial: ("watch-04", False)}
    assert desk.registry.members(NOW) == {}
    refused("unknown_token", desk.answer, token.id, begin(tmp_path / "identity", token, os.urandom))
    assert desk.revoke("watch-04") == 0  # again: nothing changes
    enrolled(desk, tmp_path / "other")  # and it may join again, with a new token
    assert set(desk.registry.members(NOW)) == {"watch-04"}


def test_who_never_was_a_device_cannot_be_revoked(desk):
    with pytest.raises(UsageError, match="no device 'watch-77'"):
        desk.revoke("watch-77")


def test_a_rotated_role_is_on_the_revocation_list(desk, directory):
    old = pki.read_certificate(directory / "coordinator" / "certificate.pem").serial_number
    desk.rotate("coordinator", ())
    assert listed(directory) == {old: ("coordinator", True)}
    assert desk.registry.members(NOW) == {}


def test_a_revocation_list_that_an_interruption_kept_behind_is_made_good(
    desk, directory, clock, monkeypatch, tmp_path
):
    enrolled(desk, tmp_path / "identity")
    monkeypatch.setattr(pki, "write_revocations", lambda *_: (_ for _ in ()).throw(OSError("cut")))
    with pytest.raises(OSError, match="cut"):
        desk.revoke("watch-04")
    monkeypatch.undo()
    assert listed(directory) == {}
    Desk(directory, clock=clock).registry.close()
    assert len(listed(directory)) == 1


def test_expired_certificates_leave_the_revocation_list(desk, directory, clock, tmp_path):
    enrolled(desk, tmp_path / "identity")
    desk.revoke("watch-04")
    assert len(listed(directory)) == 1
    clock.now = NOW + timedelta(days=731)
    Desk(directory, clock=clock).registry.close()
    assert listed(directory) == {}


# ---------------------------------------------------------------------- interruptions on the device


class CutError(Exception):
    """A loss of power."""


STEPS = 21


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_device_that_is_cut_off_at_any_write_enrols_with_the_same_token_after_all(
    desk, tmp_path, monkeypatch, step
):
    folder, token = tmp_path / "identity", desk.invite("fed", "watch-04", REACH)

    def whole():
        return accept(folder, desk.answer(token.id, begin(folder, token, os.urandom)))

    left = step

    def counting(real):
        def call(*arguments, **named):
            nonlocal left
            left -= 1
            if left == 0:
                raise CutError
            return real(*arguments, **named)

        return call

    for target, name in (
        (pki, "write_file"),
        (shutil, "rmtree"),
        (enrolment.Path, "rename"),
        (enrolment.Path, "unlink"),
    ):
        monkeypatch.setattr(target, name, counting(getattr(target, name)))
    cut = False
    try:
        whole()
    except CutError:
        cut = True
    monkeypatch.undo()
    assert cut, f"nothing happens at step {step}: lower STEPS"
    enrolment._settle(folder)
    identity = enrolment.read_identity(folder) if (folder / "coordinator.json").exists() else whole()
    assert identity.device_id == "watch-04"
    certificate = pki.read_certificate(folder / "certificate.pem")
    assert certificate.public_key() == pki.read_key(folder / "key.pem").public_key()
    assert certificate.serial_number == desk.registry.members(NOW)["watch-04"].serial
    assert not (tmp_path / "identity.pending").exists()


def test_a_request_once_made_is_made_again_to_the_byte(desk, tmp_path):
    token = desk.invite("fed", "watch-04", REACH)
    first = begin(tmp_path / "identity", token, os.urandom)
    assert begin(tmp_path / "identity", token, os.urandom) == first
    other = desk.invite("fed", "watch-04", REACH)
    assert begin(tmp_path / "identity", other, os.urandom) != first


def test_the_folder_of_one_device_is_not_given_to_another(desk, tmp_path):
    enrolled(desk, tmp_path / "identity")
    token = desk.invite("fed", "watch-05", REACH)
    with pytest.raises(UsageError, match=r"is watch-04 of fed, the token is for watch-05"):
        begin(tmp_path / "identity", token, os.urandom)


def test_a_damaged_identity_says_so(tmp_path):
    with pytest.raises(MissingError, match="sanderling device enroll"):
        enrolment.read_identity(tmp_path)
    for text in ("", "[]", json.dumps({"federation": "fed"}), "{"):
        (tmp_path / "coordinator.json").write_text(text)
        with pytest.raises(UsageError, match="damaged"):
            enrolment.read_identity(tmp_path)


# ---------------------------------------------------------------------- who reads or changes what crosses


def a_token(**changes):
    signer = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    known = {
        "federation": "fed",
        "id": "22" * 16,
        "device_id": "watch-04",
        "secret": bytes(range(32)),
        "signer_sha256": enrolment.hashlib.sha256(signer).digest(),
        "server_sha256": bytes(32),
        "host": "broker.local",
        "port": 8884,
        "expires": 2**31,
    }
    return Token(**(known | changes))


REQUEST = Request(signing_request=b"signing request", agreement_key=bytes(32))
GRANT = Grant(
    certificate=b"certificate",
    authority=b"authority",
    coordinator=CoordinatorKeys(
        signing=Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw(),
        agreement=b"\1" * 32,
    ),
    issued_ms=1_900_000_000_000,
)
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
MESSAGE = seal_request(a_token(), REQUEST, os.urandom)
REPLY = seal_reply(a_token(), MESSAGE, GRANT, SIGNER, os.urandom)


def test_messages_open_to_what_was_sealed():
    assert open_request(a_token(), MESSAGE) == REQUEST
    assert open_reply(a_token(), MESSAGE, REPLY) == GRANT


def test_what_crosses_shows_neither_secret_nor_keys_nor_names():
    for part in (
        a_token().secret,
        b"signing request",
        b"certificate",
        b"watch-04",
        GRANT.coordinator.signing,
    ):
        assert part not in MESSAGE + REPLY


@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"id": "33" * 16},
        {"device_id": "watch-05"},
        {"federation": "other"},
    ],
)
def test_a_message_belongs_to_its_token_alone(change):
    refused("not_authentic", open_request, a_token(**change), MESSAGE)
    refused("not_authentic", open_reply, a_token(**change), MESSAGE, REPLY)


def test_a_request_is_no_reply_and_a_reply_no_request():
    refused("not_authentic", open_reply, a_token(), MESSAGE, MESSAGE)
    refused("not_authentic", open_request, a_token(), REPLY)


def test_who_has_the_token_but_not_the_coordinators_key_cannot_reply():
    impostor = Ed25519PrivateKey.generate()
    refused(
        "not_authentic",
        open_reply,
        a_token(),
        MESSAGE,
        seal_reply(a_token(), MESSAGE, GRANT, impostor, os.urandom),
    )
    own = impostor.public_key().public_bytes_raw()
    theirs = replace(GRANT, coordinator=replace(GRANT.coordinator, signing=own))
    refused(
        "not_authentic",
        open_reply,
        a_token(),
        MESSAGE,
        seal_reply(a_token(), MESSAGE, theirs, impostor, os.urandom),
    )


def test_a_reply_to_another_request_is_refused():
    refused("not_authentic", open_reply, a_token(), seal_request(a_token(), REQUEST, os.urandom), REPLY)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_no_changed_message_is_taken(data):
    original = data.draw(st.sampled_from([MESSAGE, REPLY]))
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    changed = bytes(changed)[: data.draw(st.integers(0, len(changed)))]
    if changed == original:
        return
    with pytest.raises(EnrolmentError):
        open_request(a_token(), changed)
    with pytest.raises(EnrolmentError):
        open_reply(a_token(), MESSAGE, changed)


@pytest.mark.parametrize(
    "plain", [b"", b"\xff", b"\x80", cbor2.dumps([b"", 1]), cbor2.dumps([b"x", b"short"])]
)
def test_a_request_by_the_tokens_holder_that_makes_no_sense_is_malformed(plain):
    message = enrolment._seal(a_token(), "request", plain, os.urandom)
    refused("malformed", open_request, a_token(), message)


def test_a_holder_of_a_token_gets_no_certificate_of_another_name(desk):
    token = desk.invite("fed", "watch-04", REACH)
    key = ec.generate_private_key(ec.SECP256R1())
    request = Request(
        signing_request=pki.signing_request(key, "watch-05"),
        agreement_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
    )
    refused("malformed", desk.answer, token.id, seal_request(token, request, os.urandom))
    assert desk.registry.certificates() == ()


def test_a_reply_for_another_key_is_not_accepted(desk, tmp_path, monkeypatch):
    token = desk.invite("fed", "watch-04", REACH)
    begin(tmp_path / "identity", token, os.urandom)
    other = pki.signing_request(ec.generate_private_key(ec.SECP256R1()), "watch-04")
    monkeypatch.setattr(
        enrolment, "open_request", lambda *_: Request(signing_request=other, agreement_key=bytes(32))
    )
    reply = desk.answer(token.id, enrolment.pending(tmp_path / "identity")[1])
    refused("not_authentic", accept, tmp_path / "identity", reply)
    assert not (tmp_path / "identity").exists()


def test_too_much_is_not_even_opened():
    refused("too_large", open_request, a_token(), bytes(4097))
    refused("unknown_version", open_request, a_token(), b"\2" + MESSAGE[1:])
    refused("unknown_version", open_request, a_token(), b"")


# ---------------------------------------------------------------------- registry


def test_a_registry_of_another_version_is_refused(tmp_path):
    with Registry(tmp_path) as registry:
        registry._database.execute("PRAGMA user_version=9")
    with pytest.raises(UsageError, match="expected version 1, came version 9"):
        Registry(tmp_path)


def test_the_registry_is_readable_to_its_owner_alone(desk, directory):
    for file in (directory / "authority").glob("registry.sqlite*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_rate_limit_refills_and_keeps_names_apart():
    limit = RateLimit(burst=2, per_s=0.5)
    assert [limit.admits("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.admits("b", 0.0)
    assert not limit.admits("a", 1.0)
    assert limit.admits("a", 2.0)
    assert [limit.admits("a", 100.0) for _ in range(3)] == [True, True, False]


# ---------------------------------------------------------------------- over a real broker


class Served:
    """An EnrolmentService on a thread, with a desk of its own there; `port` once it is ready."""

    def __init__(self, directory):
        self.stop, self.log, self.failure = threading.Event(), [], None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(directory,))

    def _run(self, directory):
        try:
            with Desk(directory) as desk:
                self.service = EnrolmentService(desk, directory, "fed", "127.0.0.1", 0, self.log.append)
                self._started.set()
                self.service.run(self.stop)
        except BaseException as error:
            self.failure = error
            self._started.set()

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(10)
        assert self.failure is None, self.failure
        assert self.service.ready.wait(10), self.log
        self.port = self.service.port
        return self

    def __exit__(self, *error):
        self.stop.set()
        self._thread.join(10)
        assert self.failure is None, self.failure


@pytest.fixture
def today(tmp_path):
    pki.initialise(tmp_path / "pki", federation="fed", hosts=("localhost",), now=pki.utc_now())
    return tmp_path / "pki"


@pytest.fixture
def served(today):
    with Served(today) as served:
        yield served


def invited(directory, port, device="watch-04", **how):
    with Desk(directory) as desk:
        return desk.invite("fed", device, Reach(host="127.0.0.1", port=port, valid_s=600), **how)


def members(directory):
    with Desk(directory) as desk:
        return desk.registry.members(pki.utc_now())


@pytest.mark.network
def test_a_device_enrols_over_the_network(today, served, tmp_path):
    identity = enrol(invited(today, served.port), tmp_path / "identity", timeout_s=20, log=lambda _: None)
    assert identity.device_id == "watch-04"
    assert set(members(today)) == {"watch-04"}
    assert served.service.refused == {}
    assert "answered the request of watch-04" in served.log


@pytest.mark.network
def test_a_device_that_lost_the_reply_asks_again_and_is_the_same_member(today, served, tmp_path, monkeypatch):
    token = invited(today, served.port)

    def lost(*_: object):
        raise CutError

    with monkeypatch.context() as cut:
        cut.setattr(enrolment, "accept", lost)
        with pytest.raises(CutError):
            enrol(token, tmp_path / "identity", timeout_s=20, log=lambda _: None)
    (before,) = members(today).values()
    enrol(token, tmp_path / "identity", timeout_s=20, log=lambda _: None)
    assert members(today) == {"watch-04": before}


@pytest.mark.network
def test_a_listener_with_another_certificate_is_told_nothing(today, served, tmp_path):
    token = replace(invited(today, served.port), server_sha256=bytes(32))
    log = []
    with pytest.raises(MissingError, match="not the certificate that was pinned"):
        enrol(token, tmp_path / "identity", timeout_s=1.5, log=log.append)
    assert members(today) == {}


@pytest.mark.network
def test_nobody_answering_is_said_with_what_to_look_at(today, tmp_path):
    with pytest.raises(MissingError, match=r"sanderling device serve"):
        enrol(invited(today, 9), tmp_path / "identity", timeout_s=0.5, log=lambda _: None)


@pytest.mark.network
def test_strangers_on_the_listener_hear_and_say_nothing_but_with_a_tokens_id(today, served, tmp_path):
    token = invited(today, served.port)
    pin = TlsPin(certificate_sha256=token.server_sha256)
    everything = ("#", "sanderling/#", "sanderling/1/fed/enrol/+/reply", "sanderling/1/fed/enrol/+/request")
    own, others = TOPICS.enrolment_request("stranger"), TOPICS.enrolment_request(token.id)
    with connected(Link(link_settings(served.port, "stranger", tls=pin)), *everything) as stranger:
        for topic in (others, TOPICS.enrolment_reply(token.id), TOPICS.plan, TOPICS.update("watch-04")):
            stranger.publish(topic, b"forged")
        enrol(token, tmp_path / "identity", timeout_s=20, log=lambda _: None)
        stranger.publish(own, b"as itself")
        while not served.service.refused["unknown_token"]:
            assert stranger.next_event(0.05) is None or True
        assert served.service.refused == {"unknown_token": 1}
        heard = [event for event in iter(lambda: stranger.next_event(0), None) if hasattr(event, "payload")]
        assert heard == []


@pytest.mark.network
def test_a_stranger_leaves_nothing_that_stays(today, served):
    pin = TlsPin(certificate_sha256=invited(today, served.port).server_sha256)
    own = TOPICS.enrolment_request("stranger")
    with connected(Link(link_settings(served.port, "stranger", tls=pin))) as stranger:
        stranger.publish(own, b"to stay", retain=True)
        assert "Retain not supported" in wait_for(stranger, Disconnected).reason


@pytest.mark.network
def test_a_flood_for_one_token_is_bounded_and_others_are_answered(today, served, tmp_path):
    flooded, other = invited(today, served.port), invited(today, served.port, "watch-05")
    pin = TlsPin(certificate_sha256=flooded.server_sha256)
    with connected(Link(link_settings(served.port, flooded.id, tls=pin))) as flood:
        for _ in range(200):
            flood.publish(TOPICS.enrolment_request(flooded.id), b"\1" + os.urandom(200))
        enrol(other, tmp_path / "identity", timeout_s=20, log=lambda _: None)
        flood.close(flush_s=10)
    with Served(today) as again:
        assert again.service.refused == {}
    counted = served.service.refused
    assert counted["not_authentic"] <= 7  # a burst, and what was refilled meanwhile
    assert counted["rate_limited"] >= 190
    assert set(members(today)) == {"watch-05"}


@pytest.mark.network
def test_a_broker_that_reads_everything_enrols_nothing(today, tmp_path):
    """All that crossed, in the hands of somebody who has neither the token nor the device's keys."""
    token = invited(today, 9)
    message = begin(tmp_path / "identity", token, os.urandom)
    with Desk(today) as desk, start_broker("mosquitto") as broker:  # in plain text: it reads everything
        with (
            connected(Link(link_settings(broker.port, "spy")), "#") as spy,
            connected(Link(link_settings(broker.port, "desk")), TOPICS.all_enrolment_requests) as answers,
            connected(Link(link_settings(broker.port, token.id)), TOPICS.enrolment_reply(token.id)) as device,
        ):
            device.publish(TOPICS.enrolment_request(token.id), message)
            (request,) = received_until(answers, message)
            reply = desk.answer(token.id, request)
            answers.publish(TOPICS.enrolment_reply(token.id), reply)
            assert received_until(device, reply) == [reply]
            captured = received_until(spy, reply)
        assert [payload for payload in captured if payload] == [message, reply]
        accept(tmp_path / "identity", reply)
        before = desk.registry.certificates()
        certificate = x509.load_der_x509_certificate(before[0].certificate)
        key = pki.read_key(tmp_path / "identity" / "key.pem")
        crossed = b"".join(captured)
        for secret in (
            token.secret,
            before[0].certificate,
            pki.signing_request(key, "watch-04")[:60],
            before[0].agreement_key,
            certificate.serial_number.to_bytes(20, "big").lstrip(b"\0"),
        ):
            assert secret not in crossed
        # Sent again, it gets the sealed reply again and nothing more; with other tokens, or another name: nothing.
        assert desk.answer(token.id, message) == reply
        other = desk.invite("fed", "watch-05", REACH)
        refused("not_authentic", desk.answer, other.id, message)
        # The spy's own request under a secret it guesses from what it saw:
        forged = begin(tmp_path / "spy", replace(other, secret=message[-32:]), os.urandom)
        refused("not_authentic", desk.answer, other.id, forged)
        assert desk.registry.certificates() == before


def test_the_rules_of_the_listener_know_no_topic_but_a_tokens_own():
    rules = enrolment_rules("fed").splitlines()
    assert all(rule.startswith("pattern ") and "/enrol/%c/" in rule for rule in rules)
