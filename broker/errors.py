"""Why a message is refused: the kinds of ProtocolError, each with the `reason` it is counted under.

    ProtocolError                malformed
    |- MessageError              malformed            not the CBOR that messages.cddl describes
    |  |- UnknownVersionError    unknown_version
    |  `- TooLargeError          too_large
    |- CodecError                codec                the update's payload breaks docs/wire.md
    |  `- CodecVersionError      unknown_version
    |- WrongFederationError      wrong_federation
    |- UnknownDeviceError        unknown_device
    |- WrongRunError             wrong_run
    |- WrongRoundError           wrong_round          stale or early
    |- WrongModelError           wrong_model          trained from another model, or a body of another hash
    |- NotInCohortError          not_in_cohort
    |- DuplicateError            duplicate
    |- UnprotectedError          unprotected          plain where a sealed or signed message is asked for
    |- UnknownKeyError           unknown_key          sealed for another run, key epoch or identity
    |- NotAuthenticError         not_authentic        changed on its way, or not from whom it claims to be
    |- ReplayedError             replayed             its nonce was accepted before
    |- OutsideWindowError        outside_window       so late that a replay could not be told
    |- OlderAnnouncementError    older_announcement   signed, but before one that is known
    `- EnrolmentError            says which           an enrolment message (broker/enrolment.py)
    NonceError                   exit status 1: no nonce can be had safely; the device abstains
    LinkError                    exit status 1: the link cannot take what it was given
    `- QueueFullError

A receiver counts a refused message by reason, acknowledges it so that it does not come again, and goes on.
"""

from __future__ import annotations

from sanderling.models.errors import ProtocolError, SanderlingError


class MessageError(ProtocolError):
    """The bytes are not a message of this type; `message` names the type, `detail` what is wrong."""

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(f"{message}: {detail}")
        self.message = message
        self.detail = detail


class UnknownVersionError(MessageError):
    """The message speaks another version of the format."""

    reason = "unknown_version"

    def __init__(self, message: str, version: object, known: int) -> None:
        super().__init__(message, f"version {version!r:.40}, this build reads {known}; update the older side")
        self.version = version
        self.known = known


class TooLargeError(MessageError):
    """More bytes than the message type allows."""

    reason = "too_large"

    def __init__(self, message: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(message, f"{size_bytes} bytes, at most {limit_bytes} are read")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class CodecError(ProtocolError):
    """An encoded update that is truncated, too long, not canonical, or does not fit the round."""

    reason = "codec"


class CodecVersionError(CodecError):
    reason = "unknown_version"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(f"update codec version {version}, this build reads {known}; update the older side")
        self.version = version
        self.known = known


class WrongFederationError(ProtocolError):
    reason = "wrong_federation"

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"message of federation {actual!r}, this is {expected!r}")
        self.expected = expected
        self.actual = actual


class UnknownDeviceError(ProtocolError):
    reason = "unknown_device"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"device {device_id!r} is not a member of this federation; enrol it first")
        self.device_id = device_id


class WrongRunError(ProtocolError):
    reason = "wrong_run"

    def __init__(self, device_id: str, expected: str, actual: str) -> None:
        super().__init__(f"device {device_id!r} reports for run {actual!r}, not {expected!r}")
        self.device_id = device_id
        self.expected = expected
        self.actual = actual


class WrongRoundError(ProtocolError):
    reason = "wrong_round"

    def __init__(self, device_id: str, current_round: int, actual_round: int) -> None:
        super().__init__(f"device {device_id!r} reports for round {actual_round}, not {current_round}")
        self.device_id = device_id
        self.current_round = current_round
        self.actual_round = actual_round


class WrongModelError(ProtocolError):
    """`subject` is the device id, or what carried the model; hashes may be prefixes."""

    reason = "wrong_model"

    def __init__(self, subject: str, expected: bytes, actual: bytes) -> None:
        super().__init__(f"{subject}: model {actual.hex()}, expected {expected.hex()}")
        self.subject = subject
        self.expected = expected
        self.actual = actual


class NotInCohortError(ProtocolError):
    reason = "not_in_cohort"

    def __init__(self, device_id: str, round_number: int) -> None:
        super().__init__(f"device {device_id!r} was not chosen for round {round_number}")
        self.device_id = device_id
        self.round_number = round_number


class DuplicateError(ProtocolError):
    reason = "duplicate"

    def __init__(self, device_id: str, round_number: int) -> None:
        super().__init__(f"device {device_id!r} already reported for round {round_number}")
        self.device_id = device_id
        self.round_number = round_number


class UnprotectedError(ProtocolError):
    """A plain message where a sealed or signed one is asked for; `subject` is the device, or the announcement."""

    reason = "unprotected"

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"{subject}: neither sealed nor signed; enrol the device, or drop what stands between"
        )
        self.subject = subject


class UnknownKeyError(ProtocolError):
    reason = "unknown_key"

    def __init__(self, device_id: str, expected: bytes, actual: bytes) -> None:
        super().__init__(
            f"device {device_id!r} sealed for key {actual.hex()}, expected {expected.hex()}: "
            "another run, key epoch or identity"
        )
        self.device_id = device_id
        self.expected = expected
        self.actual = actual


class NotAuthenticError(ProtocolError):
    """The seal or the signature does not fit the bytes and what they are about."""

    reason = "not_authentic"

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject}: the seal or signature does not fit; it was altered, moved or forged")
        self.subject = subject


class ReplayedError(ProtocolError):
    reason = "replayed"

    def __init__(self, device_id: str, counter: int) -> None:
        super().__init__(f"device {device_id!r}: message {counter} was accepted before")
        self.device_id = device_id
        self.counter = counter


class OutsideWindowError(ProtocolError):
    reason = "outside_window"

    def __init__(self, device_id: str, counter: int, lowest: int) -> None:
        super().__init__(f"device {device_id!r}: message {counter} is below {lowest}, too late to judge")
        self.device_id = device_id
        self.counter = counter
        self.lowest = lowest


class OlderAnnouncementError(ProtocolError):
    reason = "older_announcement"

    def __init__(self, subject: str, newest: int, actual: int) -> None:
        super().__init__(f"{subject}: sequence {actual}, {newest} is known; an old announcement came again")
        self.subject = subject
        self.newest = newest
        self.actual = actual


class NonceError(SanderlingError):
    """No nonce can be had that is certainly unused."""


class LinkError(SanderlingError):
    """The link cannot take what it was given."""


class QueueFullError(LinkError):
    """More unsent messages than the link may hold: the caller must coalesce or wait."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} messages are waiting to be sent already; wait for deliveries or coalesce")
        self.limit = limit
