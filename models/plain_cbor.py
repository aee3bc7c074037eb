"""CBOR that strangers may have written (RFC 8949): no tags, no indefinite lengths, bounded depth.

cbor2's own decoders of tags build integers too long to print, and fractions too long to reduce.
"""

from __future__ import annotations

from typing import Any

import cbor2


class _NoTags(dict[int, Any]):
    def __missing__(self, tag: int) -> Any:
        raise ValueError(f"tag {tag}")


_NO_TAGS = _NoTags()


def loads(data: bytes, *, depth: int) -> object:
    """The one item of `data`, containers nested at most `depth` deep. ValueError for anything else, whatever the bytes are."""
    try:
        return cbor2.loads(
            data,
            max_depth=depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
        )
    except Exception as error:  # not only cbor2's own: a key that cannot be hashed, text that is no UTF-8
        raise ValueError(f"expected CBOR without tags: {error!s:.120}") from None
