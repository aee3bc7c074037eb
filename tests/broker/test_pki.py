"""Certificates, revocation lists, and what is on the disk."""

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import pki
from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY
from sanderling.models.errors import MissingError, UsageError

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
HOSTS = ("broker.local", "192.0.2.7", "2001:db8::1")


@pytest.fixture
def made(tmp_path):
    return pki.initialise(tmp_path / "pki", federation="fed", hosts=HOSTS, now=NOW)


def key():
    return ec.generate_private_key(ec.SECP256R1())


def request(device_id="watch-04", private=None):
    return pki.signing_request(private or key(), device_id)


def test_every_machine_has_a_folder_with_what_it_needs_and_nothing_else(made):
    names = {folder.name: {file.name for file in folder.iterdir()} for folder in made.directory.iterdir()}
    assert names == {
        "authority": {"ca.key", "ca.pem", "revoked.pem"},
        "enrolment": {"ca.pem", "certificate.pem", "key.pem"},
        "broker": {"ca.pem", "certificate.pem", "key.pem", "revoked.pem"},
        "coordinator": {"ca.pem", "certificate.pem", "key.pem", "signing.key", "agreement.key"},
    }


def test_private_keys_are_readable_to_their_owner_alone(made):
    for file in made.directory.rglob("*"):
        private = b"PRIVATE" in file.read_bytes() if file.is_file() else True
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 or not private, file
    assert isinstance(pki.read_key(made.folder("coordinator") / pki.SIGNING_KEY), ed25519.Ed25519PrivateKey)
    assert isinstance(pki.read_key(made.folder("coordinator") / pki.AGREEMENT_KEY), x25519.X25519PrivateKey)


def test_openssl_accepts_the_chain_for_each_purpose(made):
    for role, purpose in (("broker", "sslserver"), ("coordinator", "sslclient"), ("enrolment", "sslserver")):
        authority = str(made.folder(role) / CA_CERTIFICATE)
        certificate = str(made.folder(role) / CERTIFICATE)
        at = str(int(NOW.timestamp()))
        options = ["-x509_strict", "-purpose", purpose, "-attime", at]
        subprocess.run(
            ["openssl", "verify", *options, "-CAfile", authority, certificate],
            check=True,
            capture_output=True,
        )


def test_the_brokers_certificate_is_for_its_names_and_addresses(made):
    assert pki.hosts_of(pki.read_certificate(made.folder("broker") / CERTIFICATE)) == HOSTS


def test_dates_come_from_the_clock_that_is_passed_in(made):
    certificate = made.authority().sign_request(request(), "watch-04", NOW)
    assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=730)


def test_a_certificate_does_not_outlive_its_authority(made):
    authority = made.authority()
    late = authority.certificate.not_valid_after_utc - timedelta(days=3)
    assert authority.sign_request(request(), "watch-04", late).not_valid_after_utc == late + timedelta(days=3)


def test_serial_numbers_are_random(made):
    authority = made.authority()
    serials = {authority.sign_request(request(), "watch-04", NOW).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert min(serials) > 2**64


def test_a_pki_is_never_overwritten(made):
    before = {file: file.read_bytes() for file in made.directory.rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match="never overwritten"):
        pki.initialise(made.directory, federation="fed", hosts=HOSTS, now=NOW)
    assert {file: file.read_bytes() for file in made.directory.rglob("*") if file.is_file()} == before


def test_an_attempt_that_was_cut_short_leaves_no_pki(tmp_path, monkeypatch):
    def cut(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pki, "write_revocations", cut)
    with pytest.raises(OSError, match="no space"):
        pki.initialise(tmp_path / "pki", federation="fed", hosts=HOSTS, now=NOW)
    assert not pki.Pki(tmp_path / "pki").exists()


@pytest.mark.parametrize("host", ["", "two words", "-x", "a/b", "ä.example", "x" * 300])
def test_what_is_no_host_is_refused(tmp_path, host):
    with pytest.raises(UsageError, match="expected a name"):
        pki.initialise(tmp_path / "pki", federation="fed", hosts=(host,), now=NOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["coordinator", "enrolment", "broker", "a/b", "#", "+", "", "x" * 65, "a\nb"]
)
def test_no_device_takes_a_name_with_rights_or_none_that_fits_a_topic(made, name):
    with pytest.raises(UsageError):
        pki.signing_request(key(), name)
    with pytest.raises(UsageError):
        made.authority().sign_request(raw_request(NameOID.COMMON_NAME, name[:64] or "x"), name, NOW)


def test_a_request_for_another_name_is_refused(made):
    with pytest.raises(UsageError, match="expected a request of 'watch-04', came one of 'watch-05'"):
        made.authority().sign_request(request("watch-05"), "watch-04", NOW)


def test_a_request_whose_name_is_not_a_common_name_alone_is_refused(made):
    for csr in (raw_request(NameOID.ORGANIZATION_NAME, "watch-04"), raw_request(None, "")):
        with pytest.raises(UsageError, match="came one of ''"):
            made.authority().sign_request(csr, "watch-04", NOW)


def test_a_request_of_another_curve_is_refused(made):
    csr = pki.signing_request(ec.generate_private_key(ec.SECP384R1()), "watch-04")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a P-256 key"):
        made.authority().sign_request(csr, "watch-04", NOW)


def test_a_request_that_its_key_did_not_sign_is_refused(made):
    csr = bytearray(request())
    csr[-1] ^= 1
    with pytest.raises(UsageError):
        made.authority().sign_request(bytes(csr), "watch-04", NOW)


@pytest.mark.parametrize(("place", "value"), [(7, 1), (44, 0)], ids=["version", "curve"])
def test_a_request_of_an_unknown_version_or_curve_is_refused(made, place, value):
    csr = bytearray(REQUEST)
    csr[place] = value
    with pytest.raises(UsageError, match="not a certificate signing request"):
        made.authority().sign_request(bytes(csr), "watch-04", NOW)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nothing_but_usage_error_comes_of_a_damaged_request(data, tmp_path_factory):
    authority = authority_of(tmp_path_factory)
    csr = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 4))):
        csr[data.draw(st.integers(0, len(csr) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(csr)))
    try:
        signed = authority.sign_request(bytes(csr[:cut]), "watch-04", NOW)
    except UsageError:
        return
    assert pki.common_name(signed) == "watch-04"


REQUEST = request()
_kept = []


def authority_of(factory):
    if not _kept:
        made = pki.initialise(factory.mktemp("pki") / "pki", federation="fed", hosts=HOSTS, now=NOW)
        _kept.append(made.authority())
    return _kept[0]


def test_rotation_keeps_the_hosts_and_replaces_the_key(made):
    old_key = (made.folder("broker") / KEY).read_bytes()
    old = pki.read_certificate(made.folder("broker") / CERTIFICATE)
    pki.rotate(made, "broker", (), NOW)
    certificate = pki.read_certificate(made.folder("broker") / CERTIFICATE)
    assert certificate.serial_number != old.serial_number
    assert pki.hosts_of(certificate) == HOSTS
    assert (made.folder("broker") / KEY).read_bytes() != old_key
    context = ssl.create_default_context()
    context.load_cert_chain(made.folder("broker") / CERTIFICATE, made.folder("broker") / KEY)  # they match
    pki.rotate(made, "broker", ("new.local",), NOW)
    assert pki.hosts_of(pki.read_certificate(made.folder("broker") / CERTIFICATE)) == ("new.local",)


def test_a_revocation_list_names_what_it_revokes_and_is_signed(made):
    authority = made.authority()
    revoked = [
        pki.Revocation(serial=7, name="watch-04", at=NOW),
        pki.Revocation(serial=2**150, name="watch-05", at=NOW, superseded=True),
    ]
    pki.write_revocations(made, authority, revoked, NOW)
    raw = (made.folder("broker") / pki.REVOKED).read_bytes()
    assert raw == (made.folder("authority") / pki.REVOKED).read_bytes()
    revocations = x509.load_pem_x509_crl(raw)
    assert revocations.is_signature_valid(authority.key.public_key())
    assert {entry.serial_number for entry in revocations} == {7, 2**150}
    assert pki.notices(raw) == {7: ("watch-04", False), 2**150: ("watch-05", True)}


def test_each_revocation_list_is_newer_by_seconds_even_when_the_clock_stands_or_goes_back(made):
    seen = []
    for now in (NOW, NOW, NOW - timedelta(days=40), NOW + timedelta(days=1)):
        pki.write_revocations(made, made.authority(), (), now)
        revocations = x509.load_pem_x509_crl((made.folder("broker") / pki.REVOKED).read_bytes())
        seen.append(revocations.last_update_utc)
        assert revocations.next_update_utc == made.authority().certificate.not_valid_after_utc
    assert seen == sorted(set(seen))
    assert seen[-1] == NOW


def test_a_folder_that_is_not_there_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(MissingError, match="sanderling pki init"):
        pki.Pki(tmp_path).authority()
    with pytest.raises(MissingError, match="sanderling pki init"):
        pki.Pki(tmp_path).tls("coordinator")


def raw_request(attribute, value):
    names = [] if attribute is None else [x509.NameAttribute(attribute, value, _validate=False)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    return builder.sign(key(), hashes.SHA256()).public_bytes(Encoding.DER)
