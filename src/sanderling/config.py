"""federation.toml: every setting of a federation as typed, frozen values, with the text a user reads beside each.

The classes below are the only list of settings: the commented file that `sanderling init` writes, the JSON Schema and
every check are derived from them. Parsed by tomllib, converted by msgspec.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class Federation(Section, frozen=True):
    """Who takes part."""

    name: Annotated[Identifier, Meta(description="Names the topics on the broker and the public masks.")] = (
        "watch"
    )
    seed: Annotated[Count, Meta(description="Decides every random choice of training and selection.")] = 1
    devices: Annotated[
        tuple[Identifier, ...],
        Meta(description="The devices that may report; empty admits any device that announces itself."),
    ] = ()


class Model(Section, frozen=True):
    """The network; its backbone is frozen, its last dense layer learns."""

    source: Annotated[
        str,
        Meta(
            description="A model of the zoo (see `sanderling model list`), or the path of a .sanderling, .tflite or .onnx file."
        ),
    ] = "watch-cnn"


class Data(Section, frozen=True):
    """Where a device finds its examples."""

    source: Annotated[
        str,
        Meta(
            description="watch, digits, mnist5k, fashion_mnist, or the path of a user's own .npz, .csv or .parquet file."
        ),
    ] = "watch"
    partition: Annotated[
        Literal["natural", "iid", "dirichlet", "quantity", "classes"],
        Meta(description="How examples spread over clients where the data has no clients of its own."),
    ] = "natural"
    clients: Annotated[
        Positive, Meta(description="Number of clients to split into; not for natural ones.")
    ] = 10
    alpha: Annotated[
        float, Meta(gt=0, description="Concentration of the dirichlet and quantity partitions.")
    ] = 0.5
    classes_per_client: Annotated[Positive, Meta(description="For the classes partition.")] = 2
    client_column: Annotated[
        str, Meta(description="Own files: the column or array that names the client.")
    ] = "client"
    label_column: Annotated[
        str, Meta(description="Own files: the column or array with the class, 0, 1, 2, ...")
    ] = "label"
    recording_column: Annotated[
        str,
        Meta(
            description="Own files: rows are samples in order of time, of the recording this column names; empty: rows are examples."
        ),
    ] = ""
    window: Annotated[Positive, Meta(description="Own recordings: samples a window.")] = 100
    step: Annotated[Positive, Meta(description="Own recordings: samples from one window to the next.")] = 50


class Training(Section, frozen=True):
    """What a device does in a round."""

    epochs: Annotated[Positive, Meta(le=1000, description="Passes over the device's own examples.")] = 3
    batch_size: Annotated[Positive, Meta(le=32, description="Examples a step.")] = 16
    learning_rate: Annotated[
        float, Meta(gt=0, lt=100, description="Step size of the device's gradient descent.")
    ] = 0.05
    proximal_mu: Annotated[
        float, Meta(ge=0, le=100, description="FedProx: pull towards the global model; 0 is none.")
    ] = 0.0
    arithmetic: Annotated[
        Literal["exact", "fast"],
        Meta(
            description="exact: integers, the same bytes on every host. fast: LiteRT or ONNX Runtime features, no reproducible hash."
        ),
    ] = "exact"
    capacity: Annotated[Positive, Meta(description="Examples a device keeps.")] = 4096


class Update(Section, frozen=True):
    """How a device's change becomes a small message."""

    mode: Annotated[
        Literal["mask", "topk"],
        Meta(
            description="mask: the round's public random coordinates. topk: each device's largest, with error feedback."
        ),
    ] = "mask"
    density: Annotated[float, Meta(gt=0, le=1, description="Share of the coordinates that travel.")] = 0.25
    mask_rounds: Annotated[Positive, Meta(description="Rounds that share one mask.")] = 1
    scale_shift: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="One step of the 8-bit value is 2**scale_shift of the training grid (2**8 is one int8 weight step).",
        ),
    ] = 7
    clipping_norm: Annotated[
        Count, Meta(description="Largest L2 norm of a change, in training grid units; 0 is none.")
    ] = 0


class Round(Section, frozen=True):
    """When a round ends."""

    mode: Annotated[
        Literal["deadline", "lockstep"],
        Meta(
            description="deadline: goes on without the missing. lockstep: waits for every report; for demos, parity and replay."
        ),
    ] = "deadline"
    count: Annotated[Positive, Meta(description="Rounds at the most.")] = 30
    deadline_s: Annotated[
        float, Meta(gt=0, description="Seconds a round waits for reports (deadline mode).")
    ] = 60.0
    quorum: Annotated[
        Positive, Meta(description="Reports below which a round is abandoned and nothing is released.")
    ] = 2
    patience: Annotated[
        Count,
        Meta(
            description="Rounds without better validation accuracy before stopping with the best model; 0 runs all rounds and keeps the last."
        ),
    ] = 0


class Selection(Section, frozen=True):
    """Which devices a round asks."""

    cohort: Annotated[Count, Meta(description="Reports wanted a round; 0 is every device that is there.")] = 0
    expected_dropout: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Share expected to fail: more devices are asked, cohort / (1 - expected_dropout).",
        ),
    ] = 0.0
    minimum: Annotated[Positive, Meta(description="Devices that must be there before the first round.")] = 2


class Aggregation(Section, frozen=True):
    """How reports become the next model."""

    rule: Annotated[Literal["mean"], Meta(description="Weighted federated averaging.")] = "mean"
    max_examples: Annotated[
        Positive, Meta(le=4096, description="A report weighs min(num_examples, max_examples).")
    ] = 512
    optimizer: Annotated[Literal["fedavg", "fedavgm"], Meta(description="fedavgm has server momentum.")] = (
        "fedavgm"
    )
    learning_rate: Annotated[
        float,
        Meta(
            gt=0,
            le=16,
            description="Server step size. Under a mask a coordinate moves in a share update.density of the rounds only; up to 1 / density makes up for it.",
        ),
    ] = 3.0
    momentum: Annotated[
        float, Meta(ge=0, lt=1, description="fedavgm: share of the last step that is kept.")
    ] = 0.8


class Privacy(Section, frozen=True):
    """What the released model may tell of a device."""

    mode: Annotated[Literal["none"], Meta(description="none: no privacy claim is made.")] = "none"


class Link(Section, frozen=True):
    """How a node talks to the broker."""

    host: Annotated[str, Meta(min_length=1, description="Broker's host name or address.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Broker's port.")] = 8883
    keepalive_s: Annotated[
        Positive, Meta(le=65535, description="Seconds of silence before the broker misses a node.")
    ] = 30
    max_packet_bytes: Annotated[
        int, Meta(ge=4096, le=268435455, description="Largest packet sent or taken.")
    ] = 1048576


class Broker(Section, frozen=True):
    """The broker that `sanderling broker run` starts."""

    kind: Annotated[
        Literal["auto", "mosquitto", "embedded"],
        Meta(description="auto: mosquitto when installed, else the embedded broker."),
    ] = "auto"
    host: Annotated[str, Meta(min_length=1, description="Address it listens on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port it listens on.")] = 8883


class Security(Section, frozen=True):
    """Who may talk to the broker, and how."""

    mode: Annotated[
        Literal["tls", "plain"],
        Meta(
            description="tls: encrypted, and each node has a certificate. plain: neither; the broker then listens on this machine only."
        ),
    ] = "tls"
    directory: Annotated[
        str,
        Meta(
            min_length=1,
            description="Folder of `sanderling pki init`, for the broker, the coordinator and enrolment. A device has its own.",
        ),
    ] = "sanderling-pki"
    enrolment_port: Annotated[
        Port,
        Meta(
            description="Port of `sanderling device serve`, where a device without a certificate asks for one."
        ),
    ] = 8884


class Publish(Section, frozen=True):
    """What crosses a metered or slow link, and when."""

    adaptive: Annotated[
        bool,
        Meta(
            description="Each round's cohort, deadline, density and scale shift follow what was measured of the devices; round.deadline_s is then the longest wait. Deadline rounds only."
        ),
    ] = False
    bytes_per_day: Annotated[
        Count,
        Meta(
            description="What a device may move in a day (UTC), both ways, all overheads counted; never exceeded. 0 is no limit."
        ),
    ] = 0
    bytes_per_round: Annotated[
        Count, Meta(description="The same for a round, from its plan to its deadline. 0 is no limit.")
    ] = 0
    least_battery: Annotated[
        float, Meta(ge=0, lt=1, description="Share of charge below which a device begins nothing.")
    ] = 0.0
    least_change: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="A change smaller than this share of the largest so far is kept for a later round. Reads the device's data: not under a privacy claim.",
        ),
    ] = 0.0


class Tracking(Section, frozen=True):
    """Where the run's figures go."""

    mlflow: Annotated[bool, Meta(description="Log the run to MLflow.")] = True
    uri: Annotated[
        str, Meta(description="MLflow tracking URI; empty is a local store beside the coordinator's ledger.")
    ] = ""
    experiment: Annotated[str, Meta(min_length=1, description="MLflow experiment.")] = "sanderling"


class FederationConfig(Section, frozen=True):
    """The whole file."""

    federation: Federation = field(default_factory=Federation)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    update: Update = field(default_factory=Update)
    round: Round = field(default_factory=Round)
    selection: Selection = field(default_factory=Selection)
    aggregation: Aggregation = field(default_factory=Aggregation)
    privacy: Privacy = field(default_factory=Privacy)
    link: Link = field(default_factory=Link)
    broker: Broker = field(default_factory=Broker)
    security: Security = field(default_factory=Security)
    publish: Publish = field(default_factory=Publish)
    tracking: Tracking = field(default_factory=Tracking)


def json_schema() -> dict[str, object]:
    """JSON Schema of federation.toml."""
    return msgspec.json.schema(FederationConfig)
