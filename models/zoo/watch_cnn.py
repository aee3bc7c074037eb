"""How watch-cnn is pre-trained: augmented windows, and features that do not tell the same thing twice.

Pre-trained on the three people of the watch data who take no part in any federation. Architecture, augmentation and
decorrelation of the features were chosen by leaving each of the three out in turn; the other seven were never looked
at. Needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sanderling.models.datasets.watch import WINDOW, read_recordings
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.zoo.architectures import architecture
from sanderling.models.zoo.quantize import INPUT_SCALE
from sanderling.models.zoo.training import CALIBRATION_EXAMPLES, Trained

PEOPLE = (1, 2, 3)
STEPS = 1500
BATCH = 64
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-3
DECORRELATION = 0.1  # of features: a head on them is then well conditioned for plain gradient descent
FURTHER_WINDOWS = 8192  # drawn once, to train a pruned or quantised model further

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What differs from one wrist to the next: how the watch sits, how fast and how far people move, noise."""

    rotation_degrees: float = 45.0
    speed: float = 0.4  # up to 1 + speed times faster or slower
    turn_gain: float = 0.3  # log range of the gyroscope's gain
    noise: float = 0.15  # standard deviations


def train(seed: int, people: tuple[int, ...] = PEOPLE) -> Trained:
    """The trained model; inputs, targets and calibration are windows of the same people."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    source = _Source(people)
    design = architecture("watch-cnn")
    model = cast(nn.Sequential, design.make(design.input_shape, design.classes))
    features, head = model[:-1], model[-1]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    model.train()
    for _ in range(STEPS):
        windows, labels = source.batch(BATCH, rng, Augmentation())
        found = features(_to_torch(windows))
        loss = nn.functional.cross_entropy(head(found), torch.from_numpy(labels))
        loss = loss + DECORRELATION * _correlation(found)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
    mild = Augmentation(rotation_degrees=15.0, speed=0.1, turn_gain=0.1, noise=0.05)
    calibration, _ = source.batch(CALIBRATION_EXAMPLES, rng, mild)
    windows, labels = source.batch(FURTHER_WINDOWS, rng, Augmentation())
    return Trained(
        model=model,
        preprocessing=source.preprocessing,
        input_scale=INPUT_SCALE,
        inputs=_to_torch(windows),
        targets=torch.from_numpy(labels),
        calibration=_to_torch(calibration),
    )


class _Source:
    """Draws augmented windows from some people's recordings."""

    def __init__(self, people: tuple[int, ...]) -> None:
        chosen = [item for item in zip(*read_recordings(), strict=True) if item[2] in people]
        self._lengths = np.array([len(recording) for recording, _, _ in chosen])
        self._labels = np.array([label for _, label, _ in chosen])
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._samples = np.concatenate([recording for recording, _, _ in chosen]).astype(np.float64)
        self.preprocessing = Preprocessing.fit(self._samples.astype(np.float32))

    def batch(
        self, count: int, rng: np.random.Generator, augmentation: Augmentation
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Normalised windows (count, 100, 6) and their labels."""
        chosen = rng.choice(len(self._lengths), count, p=self._lengths / self._lengths.sum())
        speed = np.exp(rng.uniform(-1, 1, count) * np.log(1 + augmentation.speed))
        windows = self._resampled(chosen, speed, rng)
        turned = _rotations(count, np.deg2rad(augmentation.rotation_degrees), rng).transpose(0, 2, 1)
        gain = np.exp(rng.uniform(-augmentation.turn_gain, augmentation.turn_gain, (count, 1, 1)))
        acceleration = windows[:, :, :3] @ turned
        turning = (windows[:, :, 3:] @ turned) * speed[:, None, None] * gain
        both: Floats = np.concatenate([acceleration, turning], axis=2)
        both = (both - np.asarray(self.preprocessing.mean)) / np.asarray(self.preprocessing.std)
        both += rng.normal(size=both.shape) * augmentation.noise
        return both, self._labels[chosen]

    def _resampled(self, chosen: NDArray[np.int64], speed: Floats, rng: np.random.Generator) -> Floats:
        """A window from a random place of each recording, played at `speed`, by linear interpolation."""
        room = np.maximum(1.0, self._lengths[chosen] - WINDOW * speed - 2)
        times = rng.uniform(0, 1, len(chosen))[:, None] * room[:, None] + np.arange(WINDOW) * speed[:, None]
        times = np.clip(times, 0, (self._lengths[chosen] - 2)[:, None])
        whole = times.astype(np.int64)
        part = (times - whole)[..., None]
        index = whole + self._starts[chosen][:, None]
        windows: Floats = self._samples[index] * (1 - part) + self._samples[index + 1] * part
        return windows


def _rotations(count: int, largest: float, rng: np.random.Generator) -> Floats:
    """Rotations (count, 3, 3) about random axes by up to `largest` radians (Rodrigues' formula)."""
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = rng.uniform(-largest, largest, count)
    cross = np.zeros((count, 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axes[:, 2], axes[:, 1], -axes[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    rotations: Floats = np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
    return rotations


def _correlation(features: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation between different features of a batch (n, F)."""
    centred = features - features.mean(0)
    unit = centred / (centred.std(0) + 1e-3)
    correlation = unit.T @ unit / (len(unit) - 1)
    off_diagonal = correlation - torch.diag(torch.diag(correlation))
    return off_diagonal.pow(2).sum() / len(correlation)


def _to_torch(windows: Floats) -> torch.Tensor:
    """(n, time, channels) to (n, channels, 1, time)."""
    return torch.from_numpy(np.ascontiguousarray(windows.transpose(0, 2, 1)[:, :, None, :], dtype=np.float32))
