"""Reads COSE objects with the library `cwt`, which shares no code with ours; runs in an environment of its own."""

import json
import sys
from pathlib import Path

from cwt import COSE, COSEKey

of = bytes.fromhex
KEY_TYPE, ALGORITHM, CURVE, OKP, SYMMETRIC, ED25519, EDDSA, CHACHA20_POLY1305 = 1, 3, -1, 1, 4, 6, -8, 24


def main(file: Path) -> None:
    objects = json.loads(file.read_text())
    read, made, refused = [], [], 0
    for kind in ("encrypt0", "sign1"):
        for case in objects[kind]:
            key = key_of(case)
            message = COSE.new().decode(of(case["data"]), key, external_aad=of(case["aad"]))
            read.append(message.hex())
            refused += is_refused(case, key)
            if kind == "encrypt0":
                made.append(seal(case, key, message))
    json.dump({"read": read, "made": made, "refused": refused}, sys.stdout)


def key_of(case: dict) -> object:
    if "public" in case:
        return COSEKey.new({KEY_TYPE: OKP, CURVE: ED25519, -2: of(case["public"]), ALGORITHM: EDDSA})
    return COSEKey.new(
        {KEY_TYPE: SYMMETRIC, ALGORITHM: CHACHA20_POLY1305, -1: of(case["key"]), 2: of(case["kid"])}
    )


def is_refused(case: dict, key: object) -> bool:
    """Whether other associated data is noticed."""
    try:
        COSE.new().decode(of(case["data"]), key, external_aad=of(case["aad"]) + b"\0")
    except Exception:
        return True
    return False


def seal(case: dict, key: object, message: bytes) -> str:
    """The same message sealed by the peer with the same nonce."""
    at = of(case["data"]).index(b"\xa1\x05\x4c") + 3  # the unprotected header: {5: 12 bytes}
    headers = {1: CHACHA20_POLY1305, 4: of(case["kid"])}, {5: of(case["data"])[at : at + 12]}
    return COSE.new().encode_and_encrypt(message, key, *headers, external_aad=of(case["aad"])).hex()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
