"""Where each message of a federation travels (docs/wire.md, "Topics").

    sanderling/1/{federation}/plan                      retained, coordinator
    sanderling/1/{federation}/model/{hash}              retained, coordinator
    sanderling/1/{federation}/model/{hash}/chunk/{size}/{index}    retained, coordinator
    sanderling/1/{federation}/network/{hash}            retained, coordinator
    sanderling/1/{federation}/device/{id}/update        the device
    sanderling/1/{federation}/device/{id}/status        retained, the device and its last will
    sanderling/1/{federation}/device/{id}/evaluation    the device
    sanderling/1/{federation}/device/{id}/doctor        the device's `sanderling doctor`; nobody listens
    sanderling/1/{federation}/enrol/{token id}/request  who has the token
    sanderling/1/{federation}/enrol/{token id}/reply    the authority

What a device may write lies below its own id, so that one pattern on the user name can guard it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sanderling.models.errors import UsageError

ROOT = "sanderling/1"
NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def check_name(kind: str, name: str) -> str:
    """`name` itself. Raises UsageError where it could not be one level of a topic."""
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(f"{kind} {name!r:.80}: expected 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one federation. Names of levels are checked: UsageError."""

    federation: str
    _base: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_base", f"{ROOT}/{check_name('federation', self.federation)}")

    @property
    def plan(self) -> str:
        return f"{self._base}/plan"

    def model(self, model_hash: bytes) -> str:
        return f"{self._base}/model/{model_hash.hex()}"

    def chunk(self, model_hash: bytes, size: int, index: int) -> str:
        return f"{self.model(model_hash)}/chunk/{size}/{index}"

    def network(self, network_hash: bytes) -> str:
        return f"{self._base}/network/{network_hash.hex()}"

    def update(self, device: str) -> str:
        return self._of_device(device, "update")

    def status(self, device: str) -> str:
        return self._of_device(device, "status")

    def evaluation(self, device: str) -> str:
        return self._of_device(device, "evaluation")

    def doctor(self, device: str) -> str:
        return self._of_device(device, "doctor")

    @property
    def all_updates(self) -> str:
        return f"{self._base}/device/+/update"

    @property
    def all_statuses(self) -> str:
        return f"{self._base}/device/+/status"

    @property
    def all_evaluations(self) -> str:
        return f"{self._base}/device/+/evaluation"

    def enrolment_request(self, token_id: str) -> str:
        return f"{self._base}/enrol/{check_name('token', token_id)}/request"

    def enrolment_reply(self, token_id: str) -> str:
        return f"{self._base}/enrol/{check_name('token', token_id)}/reply"

    @property
    def all_enrolment_requests(self) -> str:
        return f"{self._base}/enrol/+/request"

    def token_of(self, topic: str) -> str | None:
        """The token with whose id somebody asks to be enrolled; None for any other topic."""
        base, _, rest = topic.partition("/enrol/")
        token_id, _, leaf = rest.partition("/")
        return (
            token_id
            if base == self._base and leaf == "request" and NAME_PATTERN.fullmatch(token_id)
            else None
        )

    def device_of(self, topic: str) -> str | None:
        """The device whose update, status or evaluation topic this is; None for any other topic."""
        base, _, rest = topic.partition("/device/")
        device, _, leaf = rest.partition("/")
        ours = base == self._base and leaf in ("update", "status", "evaluation")
        return device if ours and NAME_PATTERN.fullmatch(device) else None

    def _of_device(self, device: str, leaf: str) -> str:
        return f"{self._base}/device/{check_name('device', device)}/{leaf}"
