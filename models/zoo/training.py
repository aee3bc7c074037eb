"""Training of the zoo's models in torch, on one thread so that the same seed gives the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sanderling.models.datasets import TRAIN, Dataset
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.zoo.quantize import INPUT_SCALE

PIXEL_SCALE = 1 / 64  # images span -2 to 2
CALIBRATION_EXAMPLES = 1024
Objective = Literal["classes", "reconstruction"]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """AdamW with a rising, then falling learning rate (Smith and Topin 2018, arXiv 1708.07120)."""

    epochs: int
    learning_rate: float = 3e-3
    batch: int = 64
    weight_decay: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained float module with what quantising and training it further takes."""

    model: nn.Module
    preprocessing: Preprocessing
    input_scale: float
    inputs: torch.Tensor  # (n, ...) in torch's order
    targets: torch.Tensor
    calibration: torch.Tensor


def train_on(
    make: Callable[[], nn.Module],
    data: Dataset,
    objective: Objective,
    schedule: Schedule,
    seed: int,
    progress: Progress,
) -> Trained:
    """A fresh module trained on the TRAIN part of `data`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    part = data.part(TRAIN)
    preprocessing, input_scale = fit_preprocessing(part.examples)
    inputs = real_inputs(preprocessing, input_scale, part.examples)
    targets = inputs.flatten(1) if objective == "reconstruction" else torch.from_numpy(part.labels)
    model = make()
    train(model, inputs, targets, objective, schedule, seed, progress)
    return Trained(
        model=model,
        preprocessing=preprocessing,
        input_scale=input_scale,
        inputs=inputs,
        targets=targets,
        calibration=inputs[:: max(1, len(inputs) // CALIBRATION_EXAMPLES)][:CALIBRATION_EXAMPLES],
    )


def train(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    objective: Objective,
    schedule: Schedule,
    seed: int,
    progress: Progress,
) -> None:
    """Trains in place; leaves the module in evaluation mode."""
    loss_of = nn.functional.mse_loss if objective == "reconstruction" else nn.functional.cross_entropy
    shuffle = torch.Generator().manual_seed(seed)
    batches = max(1, len(inputs) // schedule.batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.epochs * batches
    )
    model.train()
    for epoch in range(1, schedule.epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(inputs), generator=shuffle).tensor_split(batches):
            loss = loss_of(model(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            total += loss.item()
        progress(f"epoch {epoch}/{schedule.epochs}, loss {total / batches:.4f}")
    model.eval()


def fit_preprocessing(examples: NDArray[np.float32]) -> tuple[Preprocessing, float]:
    """Images by their range, so that all of int8 is used; other signals by mean and standard deviation."""
    if examples.ndim == 4 and examples.shape[1] > 1:
        low, high = float(examples.min()), float(examples.max())
        return Preprocessing.of_range(low, high, examples.shape[-1]), PIXEL_SCALE
    return Preprocessing.fit(examples), INPUT_SCALE


def real_inputs(
    preprocessing: Preprocessing, input_scale: float, examples: NDArray[np.float32]
) -> torch.Tensor:
    """What the int8 network sees of examples (n, ...), in torch's order: (n, channels, height, width) or (n, features)."""
    integers = preprocessing.quantize_input(examples)
    if integers.ndim == 4:
        integers = integers.transpose(0, 3, 1, 2)
    return torch.from_numpy(integers.astype(np.float32) * np.float32(input_scale))
