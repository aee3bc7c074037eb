"""Whole channels taken out of a folded module: those whose weights are smallest.

Li et al. 2017, Pruning filters for efficient ConvNets (https://arxiv.org/abs/1608.08710): a channel counts as much as
the sum of its weights' magnitudes. What a residual sum reads keeps all its channels, since both sides have to agree.
Train what is left again afterwards. Needs torch.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from sanderling.models.errors import UsageError
from sanderling.models.zoo.quantize import Folded, Step

MULTIPLE = 4  # channels stay a multiple, as many as SIMD instructions take at once


def prune(folded: Folded, share: float, channels: int) -> Folded:
    """A smaller module without about `share` of the channels of each layer; `channels` is the input's."""
    if not 0 <= share < 1:
        raise UsageError(f"prune: expected a share of channels from 0 to below 1, came {share}")
    smaller = copy.deepcopy(folded)
    fixed = _fixed(smaller.plan)
    counts = [channels]  # channels at each position before pruning
    kept = [torch.arange(channels)]
    for position, step in enumerate(smaller.plan, start=1):
        counts.append(counts[step.inputs[0]] if step.weight is None else len(step.weight))
        entering = kept[step.inputs[0]]
        if step.weight is None:
            kept.append(entering)
            continue
        if step.groups > 1:
            leaving = entering
            step.groups = len(entering)
        else:
            _take_inputs(step, entering, counts[step.inputs[0]])
            leaving = torch.arange(counts[-1]) if position in fixed else _largest(step, share)
        _take_outputs(step, leaving)
        kept.append(leaving)
    return smaller


def _fixed(plan: list[Step]) -> set[int]:
    """Positions whose channels have to stay: the output, and whatever reaches a residual sum channel by channel."""
    fixed = {len(plan)}
    for position, step in reversed(list(enumerate(plan, start=1))):
        passes_channels_on = step.weight is None or step.groups > 1
        if step.kind == "add" or (passes_channels_on and position in fixed):
            fixed.update(step.inputs)
    return fixed


def _largest(step: Step, share: float) -> torch.Tensor:
    """The channels that stay, in order."""
    assert step.weight is not None
    importance = step.weight.detach().abs().flatten(1).sum(1)
    stay = max(MULTIPLE, MULTIPLE * round(len(importance) * (1 - share) / MULTIPLE))
    chosen: torch.Tensor = importance.topk(min(stay, len(importance))).indices.sort().values
    return chosen


def _take_inputs(step: Step, channels: torch.Tensor, before: int) -> None:
    """Columns of the channels that stay; a dense layer has one for each place in the image."""
    assert step.weight is not None
    weight = step.weight.detach()
    by_channel = weight.reshape(len(weight), before, -1, *weight.shape[2:])
    taken = by_channel[:, channels].reshape(len(weight), -1, *weight.shape[2:])
    step.weight = nn.Parameter(taken)


def _take_outputs(step: Step, channels: torch.Tensor) -> None:
    assert step.weight is not None and step.bias is not None
    step.weight = nn.Parameter(step.weight.detach()[channels])
    step.bias = nn.Parameter(step.bias.detach()[channels])
