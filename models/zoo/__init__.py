"""Models that come with the package, and how they are made again: `package`, `load`, `build`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sanderling.models.datasets import Dataset
from sanderling.models.errors import MissingError, ModelFormatError, UsageError
from sanderling.models.network import Network
from sanderling.models.package import ModelPackage
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.tail import dense_head
from sanderling.models.zoo.card import Card, render_card

__all__ = ["NAMES", "ZooModel", "build", "load", "package", "random_network", "render_card", "shipped"]

NAMES = (
    "watch-cnn",
    "tiny-mlp",
    "fashion-ds-cnn",
    "keyword-ds-cnn",
    "person-mobilenet",
    "image-resnet8",
    "anomaly-autoencoder",
    "wakeword-tcn",
)  # what can be built

ARTEFACTS = Path(__file__).parent / "artefacts"
SUFFIX = ".sanderling"
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZooModel:
    """A shipped model and its card."""

    package: ModelPackage
    card: Card

    @property
    def network(self) -> Network:
        """The int8 network."""
        return self.package.network


def shipped() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.stem for path in ARTEFACTS.glob(f"*{SUFFIX}")))


def load(name: str) -> ZooModel:
    """A shipped model. UsageError for another name."""
    if name not in shipped():
        raise UsageError(
            f"model {name!r}: expected one of {', '.join(shipped())}, or the path of a model file"
        )
    card: Card = json.loads((ARTEFACTS / f"{name}.json").read_text(encoding="utf-8"))
    return ZooModel(package=ModelPackage.from_bytes((ARTEFACTS / f"{name}{SUFFIX}").read_bytes()), card=card)


def package(source: str) -> ModelPackage:
    """What devices load: a model of the zoo, or that of a .sanderling, .tflite or .onnx file.

    Other files bring no preprocessing and no class names: real values are quantised as their int8 input expects, and
    classes are called 0, 1, 2, ... UsageError and ModelFormatError for what cannot be used.
    """
    if source in shipped():
        return load(source).package
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"model {source!r}: expected one of {', '.join(shipped())}, or the path of a model file"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelFormatError(f"{path}: {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read")
    if path.suffix == SUFFIX:
        return ModelPackage.from_bytes(path.read_bytes())
    return _imported(path)


def build(
    name: str,
    out: Path,
    *,
    data: Dataset | None = None,
    seed: int = 1,
    prune: float = 0.0,
    quantization_aware: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Card:
    """Makes a model of the zoo and writes its files and card to `out`.

    It is trained on `data`, or on the data set that its card names. `prune` is the share of channels to take out;
    `quantization_aware` trains on with rounded weights and activations. UsageError for another name, for data of
    another shape, or for none where no package brings it; MissingError without torch or the data.
    """
    builder = _builder()
    recipe = builder.Recipe(seed=seed, prune=prune, quantization_aware=quantization_aware)
    card: Card = builder.build(name, out, data, recipe, progress)
    return card


def random_network(name: str, seed: int) -> Network:
    """An untrained int8 network of one of the zoo's architectures. MissingError without torch."""
    network: Network = _builder().random_network(name, seed)
    return network


def _builder() -> ModuleType:
    try:
        from sanderling.models.zoo import builder
    except ModuleNotFoundError as error:
        raise MissingError(
            f"building a model needs {error.name}: run `pip install 'sanderling[train]'`"
        ) from None
    return builder


def _imported(path: Path) -> ModelPackage:
    from sanderling.models import importers
    from sanderling.models.edges import int8_edges

    network = int8_edges(importers.load(path))
    first = network.tensors[network.inputs[0]]
    if first.quantization is None:
        raise ModelFormatError(f"{path}: expected an int8 input, came {first.dtype}")
    return ModelPackage(
        network=network,
        preprocessing=Preprocessing.of_input(first.quantization, first.shape[-1]),
        class_names=tuple(str(number) for number in range(dense_head(network).classes)),
    )
