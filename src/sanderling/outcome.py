"""What a run came to, read from its ledger alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sanderling.coordinator.ledger import Ledger


def of_run(directory: Path) -> dict[str, Any]:
    """Rounds, refusals, the newest model's hash, and per device how the models did on its test slice."""
    ledger = Ledger(directory)
    try:
        run = ledger.run()
        rounds = [stored.summary for stored in ledger.rounds() if stored.summary is not None]
        evaluations = ledger.evaluations()
        initial = ledger.model(0).model_hash
        final = (ledger.final_model() or ledger.model()).model_hash
        return {
            "run": run.id if run else None,
            "finished": ledger.finished(),
            "rounds": rounds,
            "model_hash": final.hex(),
            "initial_model_hash": initial.hex(),
            "per_device": {
                device: {
                    _name(result.model_hash, initial): {"correct": result.correct, "count": result.examples}
                    for result in message.results
                }
                for device, message in evaluations.items()
            },
            "accuracy_before": _pooled(evaluations, initial),
            "accuracy": _pooled(evaluations, final),
            "refused": ledger.refusals(),
        }
    finally:
        ledger.close()


def last_figures(result: dict[str, Any]) -> dict[str, float]:
    """The run's last numbers, for tracking."""
    names = ("accuracy", "accuracy_before")
    return {name: float(result[name]) for name in names if result[name] is not None}


def as_text(result: dict[str, Any], directory: Path) -> str:
    """The outcome for people."""
    if not result["finished"]:
        return f"stopped after {len(result['rounds'])} rounds; run it again with --dir {directory} and it goes on"
    before, after = result["accuracy_before"], result["accuracy"]
    accuracy = (
        f"accuracy {before:.3f} before, {after:.3f} after" if after is not None else "no device evaluated it"
    )
    return f"finished: {len(result['rounds'])} rounds, {accuracy}, model {result['model_hash'][:16]}"


def _name(model_hash: bytes, initial: bytes) -> str:
    return "before" if model_hash == initial else "after"


def _pooled(evaluations: dict[str, Any], model_hash: bytes) -> float | None:
    results = [
        result
        for message in evaluations.values()
        for result in message.results
        if result.model_hash == model_hash
    ]
    count = sum(result.examples for result in results)
    return sum(result.correct for result in results) / count if count else None
