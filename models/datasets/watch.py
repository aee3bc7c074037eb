"""The wrist recordings of ten people doing seven shoulder exercises, each person a client.

Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch", 2018 (https://arxiv.org/abs/1802.01489); shipped by the package seglearn under the BSD licence.
"""

from __future__ import annotations

import hashlib
import io
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.datasets.dataset import Dataset
from sanderling.models.datasets.windows import cut, split_by_time
from sanderling.models.errors import DatasetError, MissingError

SAMPLE_RATE_HZ = 50
WINDOW = 100  # samples, 2 s
STEP = 50  # samples, half a window
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")  # acceleration in g, rate of turn in rad/s
CLASS_NAMES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius extension",
    "upright row",
)
CLIENTS = tuple(f"watch-{person:02d}" for person in range(1, 11))
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"


def load_watch() -> Dataset:
    """Windows (n, 100, 6) of ten people, clients `watch-01` to `watch-10`. MissingError without seglearn."""
    recordings, labels, people = read_recordings()
    parts = []
    for recording, label, person in zip(recordings, labels, people, strict=True):
        starts, split = split_by_time(len(recording), window=WINDOW, step=STEP)
        owner = np.full(len(starts), person - 1)
        parts.append((cut(recording, starts, WINDOW), np.full(len(starts), label), owner, split))
    examples, label_of, client_of, split_of = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Dataset(
        name="watch",
        examples=examples,
        labels=label_of.astype(np.int64),
        clients=client_of.astype(np.int32),
        client_names=CLIENTS,
        split=split_of,
        class_names=CLASS_NAMES,
    )


def read_recordings() -> tuple[list[NDArray[np.float32]], NDArray[np.int64], NDArray[np.int64]]:
    """The 140 recordings (length, 6), their exercise 0..6 and their person 1..10."""
    path = _installed_file()
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:  # it is a pickle: nothing else may be unpickled
        raise DatasetError(
            f"{path}: expected the recordings of seglearn 1.2.5 (sha256 {_SHA256}), came {found}; "
            "install it again with `pip install --force-reinstall seglearn==1.2.5`"
        )
    data: dict[str, Any] = np.load(io.BytesIO(content), allow_pickle=True).item()
    recordings = [np.asarray(recording, np.float32) for recording in data["X"]]
    return recordings, np.asarray(data["y"], np.int64), np.asarray(data["subject"], np.int64)


def _installed_file() -> Path:
    """Found through the package's metadata: importing seglearn would need pandas."""
    try:
        distribution = metadata.distribution("seglearn")
    except metadata.PackageNotFoundError:
        path = None
    else:
        path = Path(str(distribution.locate_file("seglearn/data/watch_dataset.npy")))
    if path is None or not path.is_file():
        raise MissingError(
            "data set 'watch' needs the recordings that the package seglearn 1.2.5 brings, which is not "
            "installed; install it with `pip install 'sanderling[data]'`"
        )
    return path
