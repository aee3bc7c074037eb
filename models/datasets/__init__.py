"""Real data sets and how they divide over clients; `load(name, **options)` finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from sanderling.models.datasets.dataset import TEST, TRAIN, VALIDATION, Dataset, Split
from sanderling.models.datasets.folder import Layout, load_folder
from sanderling.models.datasets.images import (
    Partition,
    PartitionName,
    load_digits,
    load_fashion_mnist,
    load_mnist5k,
)
from sanderling.models.datasets.watch import load_watch
from sanderling.models.errors import UsageError

__all__ = ["NAMES", "TEST", "TRAIN", "VALIDATION", "Dataset", "Layout", "Partition", "Split", "load"]


def load(name: str, **options: Any) -> Dataset:
    """The data set of that name; the same options give the same content hash.

    `watch` takes none. `digits`, `mnist5k` and `fashion_mnist` take `seed` and the fields of Partition with
    `partition` for its kind. `folder` takes `path`, `seed` and the fields of Layout.
    UsageError for an unknown name or option, DatasetError for data that cannot be used, MissingError when the
    package that brings the data is not installed.
    """
    if name not in _LOADERS:
        raise UsageError(f"data set: expected one of {', '.join(NAMES)}, came {name!r}")
    loader, known = _LOADERS[name]
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise UsageError(f"data set {name!r} has no option {option!r}; it takes {takes}")
    return loader(**options)


def _folder(*, path: str | Path | None = None, seed: int = 0, **layout: Any) -> Dataset:
    if path is None:
        raise UsageError("data set 'folder': the option `path` is missing; give a file or a folder")
    for name in ("features", "class_names"):
        if name in layout:
            layout[name] = tuple(layout[name])
    return load_folder(Path(path), Layout(**layout), np.random.default_rng(seed))


def _images(loader: Callable[..., Dataset]) -> Callable[..., Dataset]:
    def load_images(*, partition: PartitionName = "dirichlet", seed: int = 0, **options: Any) -> Dataset:
        dealt = Partition(kind=partition, **options)
        return loader(partition=dealt, rng=np.random.default_rng(seed))

    return load_images


_IMAGE_OPTIONS = ("partition", "seed", "clients", "alpha", "classes")
_LOADERS: dict[str, tuple[Callable[..., Dataset], tuple[str, ...]]] = {
    "watch": (load_watch, ()),
    "digits": (_images(load_digits), _IMAGE_OPTIONS),
    "mnist5k": (_images(load_mnist5k), _IMAGE_OPTIONS),
    "fashion_mnist": (_images(load_fashion_mnist), _IMAGE_OPTIONS),
    "folder": (_folder, ("path", "seed", *(field.name for field in fields(Layout)))),
}
NAMES = tuple(_LOADERS)
