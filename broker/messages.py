"""Every message that crosses the wire, each a value with encode and decode.

Specified in docs/wire.md and broker/messages.cddl. Deterministic CBOR (RFC 8949, 4.2.1) of integers, text,
byte strings, arrays, maps and null: no floats, no tags. A message has one encoding, and decode refuses all
else: UnknownVersionError by name, TooLargeError before parsing, MessageError for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import cbor2
import numpy as np

from sanderling.broker.codec import MAX_DIMENSION, MAX_SCALE_SHIFT
from sanderling.broker.errors import MessageError, TooLargeError, UnknownVersionError
from sanderling.broker.fields import (
    Bytes,
    Choice,
    FieldError,
    Many,
    Optional,
    Record,
    Seconds,
    Text,
    Uint,
    read_fields,
    write_fields,
)
from sanderling.broker.topics import NAME_PATTERN
from sanderling.models import plain_cbor
from sanderling.models.errors import UsageError
from sanderling.models.updates import GlobalModel

MAX_COHORT = 4096
MAX_EVALUATED_MODELS = 8
MAX_DETAIL_CHARACTERS = 200
MAX_THETA_BYTES = 2 * MAX_DIMENSION
MAX_NETWORK_BYTES = 16 << 20
MAX_PAYLOAD_BYTES = MAX_DIMENSION + 64
HASH_PREFIX_BYTES = 8
MAX_CHUNK_BYTES = 1 << 16  # a whole message
MAX_CHUNKS = 1024  # of a model
CHUNK_CHECK_BYTES = 8
_DEPTH = 4  # of nested containers

U32 = Annotated[int, Uint(0, 2**32 - 1)]
U64 = Annotated[int, Uint(0, 2**64 - 1)]
Positive16 = Annotated[int, Uint(1, 2**16 - 1)]
Positive32 = Annotated[int, Uint(1, 2**32 - 1)]
Hash = Annotated[bytes, Bytes(32, 32)]
Name = Annotated[str, Text(64, NAME_PATTERN)]
ShortText = Annotated[str, Text(64)]

Phase = Literal["waiting", "round", "finished"]
Arithmetic = Literal["exact", "fast"]
UpdateMode = Literal["mask", "topk"]
State = Literal["online", "offline"]


class _Message:
    """What all messages share: a version in front, one encoding, a size limit."""

    __slots__ = ()
    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int]
    MAP: ClassVar[bool] = False  # a map with integer keys, or an array

    def encode(self) -> bytes:
        """The one encoding. Raises UsageError when a field is not what its annotation says."""
        try:
            items = {0: self.VERSION} | write_fields(self, first_key=1)
            self._check()
        except FieldError as error:
            raise UsageError(f"{self.NAME}: {error}") from None
        data = cbor2.dumps(items if self.MAP else list(items.values()), canonical=True)
        if len(data) > self.MAX_BYTES:
            raise UsageError(f"{self.NAME}: {len(data)} bytes, at most {self.MAX_BYTES} may be sent")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The message in `data`. Raises MessageError or one of its kinds, whatever the bytes are."""
        if len(data) > cls.MAX_BYTES:
            raise TooLargeError(cls.NAME, len(data), cls.MAX_BYTES)
        items = cls._items(data)
        if items.get(0) != cls.VERSION or type(items[0]) is not int:
            raise UnknownVersionError(cls.NAME, items.get(0), cls.VERSION)
        del items[0]
        try:
            message = cls(**read_fields(cls, items, first_key=1))
            message._check()
        except FieldError as error:
            raise MessageError(cls.NAME, str(error)) from None
        if message.encode() != data:
            raise MessageError(cls.NAME, "expected its one deterministic encoding and nothing after it")
        return message

    @classmethod
    def _items(cls, data: bytes) -> dict[Any, object]:
        try:
            item = plain_cbor.loads(data, depth=_DEPTH)
        except ValueError as error:
            raise MessageError(cls.NAME, str(error)) from None
        if not isinstance(item, dict if cls.MAP else list):
            raise MessageError(cls.NAME, f"expected {'a map' if cls.MAP else 'an array'}, got another item")
        return dict(item if cls.MAP else enumerate(item))

    def _check(self) -> None:
        """What one field says about another. Raises FieldError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """Names a model and the network it belongs to; the sizes let a receiver decide before it fetches."""

    version: U32
    model_hash: Hash
    body_bytes: Annotated[int, Uint(0, MAX_THETA_BYTES + 64)]
    network_hash: Hash
    network_bytes: Annotated[int, Uint(0, MAX_NETWORK_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    epochs: Positive16
    batch_size: Positive16
    learning_rate_q16: U32  # learning rate * 2**16
    proximal_mu_q16: U32  # mu in Li et al. 2020 * 2**16; 0 is plain FedAvg
    seed: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    mode: Annotated[UpdateMode, Choice(("mask", "topk"))]
    coordinates: Annotated[int, Uint(0, MAX_DIMENSION)]  # k
    mask_epoch: U32
    clipping_norm: U32  # C, in theta units; 0 is no clipping
    scale_shift: Annotated[int, Uint(0, MAX_SCALE_SHIFT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan(_Message):
    """The retained announcement: what the federation does now, and with which model.

    `deadline_unix_s` is kept to the millisecond. `evaluate` names models that every device reports on.
    """

    NAME: ClassVar[str] = "round plan"
    MAX_BYTES: ClassVar[int] = 1024 + MAX_COHORT * 66 + MAX_EVALUATED_MODELS * 96
    MAP: ClassVar[bool] = True

    federation: Name
    run: Name
    round: U32
    phase: Annotated[Phase, Choice(("waiting", "round", "finished"))]
    cohort: Annotated[tuple[str, ...], Many(Text(64, NAME_PATTERN), MAX_COHORT)]
    deadline_unix_s: Annotated[float | None, Optional(Seconds())]
    arithmetic: Annotated[Arithmetic, Choice(("exact", "fast"))]
    model: Annotated[ModelReference, Record(ModelReference)]
    training: Annotated[TrainingPlan, Record(TrainingPlan)]
    update: Annotated[UpdatePlan, Record(UpdatePlan)]
    evaluate: Annotated[tuple[ModelReference, ...], Many(Record(ModelReference), MAX_EVALUATED_MODELS)]

    def __post_init__(self) -> None:
        if self.deadline_unix_s is not None:
            try:
                deadline = Seconds().read(Seconds().write(self.deadline_unix_s))
            except FieldError as error:
                raise UsageError(f"{self.NAME}: deadline_unix_s: {error}") from None
            object.__setattr__(self, "deadline_unix_s", deadline)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBody(_Message):
    """A model's parameters, d little-endian int16; retained on the topic of its hash."""

    NAME: ClassVar[str] = "model body"
    MAX_BYTES: ClassVar[int] = MAX_THETA_BYTES + 64

    version: U32
    network_hash: Hash
    theta: Annotated[bytes, Bytes(2, MAX_THETA_BYTES)]

    @classmethod
    def of(cls, model: GlobalModel) -> ModelBody:
        """Raises UsageError where theta leaves int16, for then it would not be this model that arrives."""
        theta = model.theta.astype("<i2")
        if not np.array_equal(theta, model.theta):
            raise UsageError(f"model version {model.version}: theta leaves int16; saturate it first")
        return cls(version=model.version, network_hash=model.backbone_hash, theta=theta.tobytes())

    def to_model(self) -> GlobalModel:
        """The model it carries; its hash, not its version, says whether it is the one announced."""
        theta = np.frombuffer(self.theta, "<i2").astype(np.int32)
        return GlobalModel(version=self.version, backbone_hash=self.network_hash, theta=theta)

    def _check(self) -> None:
        if len(self.theta) % 2:
            raise FieldError(f"theta: expected whole 16-bit numbers, got {len(self.theta)} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMessage(_Message):
    """One device's report on a round. `payload` is an encoded QuantizedUpdate (broker/codec.py)."""

    NAME: ClassVar[str] = "update"
    MAX_BYTES: ClassVar[int] = MAX_PAYLOAD_BYTES + 160

    run: Name
    round: U32
    model_hash_prefix: Annotated[bytes, Bytes(HASH_PREFIX_BYTES, HASH_PREFIX_BYTES)]  # of the base model
    num_examples: Positive32
    training_loss_milli: U32
    validation_correct: U32
    validation_count: U32
    validation_loss_milli: U32
    duration_ms: U32
    payload: Annotated[bytes, Bytes(0, MAX_PAYLOAD_BYTES)]

    def _check(self) -> None:
        _check_correct(self.validation_correct, self.validation_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChunk(_Message):
    """One of the `count` pieces of a model's theta, for a device that cannot take the whole; broker/chunks.py cuts them."""

    NAME: ClassVar[str] = "model chunk"
    MAX_BYTES: ClassVar[int] = MAX_CHUNK_BYTES

    index: Annotated[int, Uint(0, MAX_CHUNKS - 1)]
    count: Annotated[int, Uint(1, MAX_CHUNKS)]
    piece: Annotated[bytes, Bytes(1, MAX_CHUNK_BYTES)]
    check: Annotated[bytes, Bytes(CHUNK_CHECK_BYTES, CHUNK_CHECK_BYTES)]

    def _check(self) -> None:
        if self.index >= self.count:
            raise FieldError(f"chunk {self.index} of {self.count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusMessage(_Message):
    """Whether a device is there, and what it is. Its last will is the same with state offline."""

    NAME: ClassVar[str] = "status"
    VERSION: ClassVar[int] = 2
    MAX_BYTES: ClassVar[int] = 72 + 2 * 260 + 4 * MAX_DETAIL_CHARACTERS
    MAP: ClassVar[bool] = True

    state: Annotated[State, Choice(("online", "offline"))]
    num_examples: U32
    boot: Annotated[bytes, Bytes(8, 8)]  # random, drawn at each start of the process
    backend: ShortText
    software: ShortText
    arithmetic_drift_lsb: Annotated[int | None, Optional(Uint(0, 2**16 - 1))]
    detail: Annotated[str, Text(MAX_DETAIL_CHARACTERS)]
    receive_buffer_bytes: Annotated[
        int | None, Optional(Uint(0, 2**32 - 1))
    ]  # None: takes whole model bodies


class EvaluationResult(NamedTuple):
    """How one model did on a device's held-back windows."""

    model_hash: Hash
    correct: U32
    examples: U32
    loss_milli: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationMessage(_Message):
    NAME: ClassVar[str] = "evaluation"
    MAX_BYTES: ClassVar[int] = 96 + MAX_EVALUATED_MODELS * 56

    run: Name
    results: Annotated[tuple[EvaluationResult, ...], Many(Record(EvaluationResult), MAX_EVALUATED_MODELS)]

    def _check(self) -> None:
        for _, correct, examples, _ in self.results:
            _check_correct(correct, examples)


def _check_correct(correct: int, examples: int) -> None:
    if correct > examples:
        raise FieldError(f"{correct} correct of {examples}")
