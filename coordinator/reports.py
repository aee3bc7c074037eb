"""A device's accepted report of a round, decoded."""

from __future__ import annotations

from dataclasses import dataclass

from sanderling.models.updates import QuantizedUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `device_id` sent for a round; validation figures are of the model it started from."""

    device_id: str
    num_examples: int
    update: QuantizedUpdate
    validation_correct: int
    validation_count: int
    validation_loss: float
    training_loss: float
    message: bytes  # the whole MQTT payload, as the ledger keeps it
