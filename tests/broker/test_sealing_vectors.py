"""The golden bytes of sealing: what the RFCs print, what the reference makes, and what another COSE library reads of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from sanderling.broker import announcements, sealing
from sanderling.broker.counters import ReplayWindow
from sanderling.broker.keys import EpochKey, coordinator_pair_key, epoch_key
from sanderling.broker.sealing import Subject
from sanderling.models.errors import ProtocolError
from tests import generate_sealing_vectors as generator

VECTORS: dict[str, list[Any]] = json.loads(generator.FILE.read_text())
PEER = Path(__file__).parent / "cose_peer.py"
of = bytes.fromhex


def test_the_file_is_what_the_reference_makes() -> None:
    assert generator.as_json(generator.vectors()) == generator.FILE.read_text(), (
        "the wire has changed: run python -m tests.generate_sealing_vectors"
    )


@pytest.mark.parametrize("case", VECTORS["published"], ids=lambda case: case["name"])
def test_published_answers(case: dict[str, str]) -> None:
    match case["kind"]:
        case "x25519":
            secret = X25519PrivateKey.from_private_bytes(of(case["secret"]))
            assert (
                secret.exchange(X25519PublicKey.from_public_bytes(of(case["public"]))).hex() == case["shared"]
            )
        case "chacha20-poly1305":
            sealed = ChaCha20Poly1305(of(case["key"])).encrypt(
                of(case["nonce"]), of(case["plain"]), of(case["aad"])
            )
            assert sealed.hex() == case["sealed"]
        case "ed25519":
            signer = Ed25519PrivateKey.from_private_bytes(of(case["secret"]))
            assert signer.public_key().public_bytes_raw().hex() == case["public"]
            assert signer.sign(of(case["message"])).hex() == case["signature"]


def key_of(case: dict[str, Any]) -> EpochKey:
    """As the coordinator derives it."""
    secret = X25519PrivateKey.from_private_bytes(of(case["coordinator_secret"]))
    pair = coordinator_pair_key(secret, X25519PublicKey.from_public_bytes(of(case["device_public"])))
    assert pair.hex() == case["pair_key"]
    return epoch_key(
        pair, federation=case["federation"], device=case["device"], run=case["run"], epoch=case["epoch"]
    )


def subject_of(case: dict[str, Any]) -> Subject:
    return Subject(
        kind=sealing.Kind(case["kind"]),
        round=case["round"],
        model_hash=of(case["model_hash"]),
        codec=case["codec"],
    )


@pytest.mark.parametrize("case", VECTORS["sealed"], ids=lambda case: f"counter {case['counter']}")
def test_sealed(case: dict[str, Any]) -> None:
    key = key_of(VECTORS["keys"][case["key"]])
    message, window = sealing.unseal(of(case["data"]), key, subject_of(case), ReplayWindow())
    assert (message.hex(), window.highest) == (case["message"], case["counter"])


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        sealing.unseal(of(case["data"]), key_of(VECTORS["keys"][0]), subject_of(case), ReplayWindow())
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: f"sequence {case['sequence']}")
def test_signed(case: dict[str, Any]) -> None:
    assert verified(case).sequence == case["sequence"]


@pytest.mark.parametrize("case", VECTORS["signed_refused"], ids=lambda case: case["name"])
def test_signed_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        verified(case, newest=1000)
    assert caught.value.reason == case["reason"]


def verified(case: dict[str, Any], newest: int = 0) -> announcements.Announcement:
    key = Ed25519PublicKey.from_public_bytes(of(case["public"]))
    kind = announcements.Kind(case["kind"])
    return announcements.verify(
        of(case["data"]), key, federation=case["federation"], kind=kind, newest=newest
    )


def test_an_independent_cose_library_reads_all_of_it(tmp_path: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        pytest.skip("uv is not installed: it makes the peer's environment")
    # An environment of its own: cwt holds cbor2 below our version.
    command = [
        uv,
        "run",
        "--no-project",
        "--quiet",
        "--python",
        sys.executable,
        "--with",
        "cwt==3.3.0",
        "python",
    ]
    if subprocess.run([*command, "-c", "import cwt"], capture_output=True, check=False).returncode:
        pytest.skip("cwt 3.3.0 is not to be had from the package index")
    (tmp_path / "objects.json").write_text(json.dumps(as_cose()))
    done = subprocess.run(
        [*command, PEER, tmp_path / "objects.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["read"] == [case["message"] for case in VECTORS["sealed"]] + [
        verified(case).payload.hex() for case in VECTORS["signed"]
    ]
    assert found["refused"] == len(found["read"])
    # And what it made from the same inputs is what we made.
    assert found["made"] == [case["data"] for case in as_cose()["encrypt0"]]


def as_cose() -> dict[str, list[dict[str, str]]]:
    """All vectors as whole COSE objects, with what a peer needs beside them."""
    encrypt0, sign1 = [], []
    for case in VECTORS["sealed"]:
        key, subject = key_of(VECTORS["keys"][case["key"]]), subject_of(case)
        data, external_aad = sealing.as_cose(of(case["data"]), key, subject)
        key_id = key.tag + subject.round.to_bytes(4, "big")
        encrypt0.append(
            {"data": data.hex(), "aad": external_aad.hex(), "key": key.secret.hex(), "kid": key_id.hex()}
        )
    for case in VECTORS["signed"]:
        kind = announcements.Kind(case["kind"])
        data, external_aad = announcements.as_cose(of(case["data"]), federation=case["federation"], kind=kind)
        sign1.append({"data": data.hex(), "aad": external_aad.hex(), "public": case["public"]})
    return {"encrypt0": encrypt0, "sign1": sign1}
