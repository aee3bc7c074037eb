"""The run in MLflow: parameters, figures of each round, and the final model's hash. Imported only where asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sanderling.models.errors import MissingError


class Tracker(Protocol):
    """Where a run's figures go."""

    def log_round(self, number: int, figures: Mapping[str, float]) -> None:
        """The figures of a closed round."""

    def finish(self, figures: Mapping[str, float], tags: Mapping[str, str], artefacts: Path | None) -> None:
        """The run's last figures; closes it."""


class NoTracker:
    """Tracking is switched off."""

    def log_round(self, number: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self, figures: Mapping[str, float], tags: Mapping[str, str], artefacts: Path | None) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class MlflowTracker:
    """One MLflow run."""

    client: Any
    run_id: str

    def log_round(self, number: int, figures: Mapping[str, float]) -> None:
        """Logs every figure with the round as its step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now_ms, number) for key, value in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def finish(self, figures: Mapping[str, float], tags: Mapping[str, str], artefacts: Path | None) -> None:
        """Logs the last figures and marks the run finished."""
        for key, value in figures.items():
            self.client.log_metric(self.run_id, key, float(value))
        for key, tag in tags.items():
            self.client.set_tag(self.run_id, key, tag)
        if artefacts is not None:
            self.client.log_artifact(self.run_id, str(artefacts))
        self.client.set_terminated(self.run_id)


def local_uri(directory: Path) -> str:
    """The default store: one SQLite file beside the ledger."""
    return f"sqlite:///{(directory / 'mlflow.db').resolve()}"


def start_mlflow(
    uri: str,
    experiment: str,
    name: str,
    parameters: Mapping[str, object],
    directory: Path,
    resume_id: str | None = None,
) -> MlflowTracker:
    """A run in the store at `uri`; the one named by `resume_id` goes on. MissingError without MLflow."""
    try:
        import mlflow
    except ImportError:
        raise MissingError(
            "MLflow is not installed: run `pip install 'sanderling[coordinator]'`, or set tracking.mlflow = false"
        ) from None
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    client = mlflow.MlflowClient(tracking_uri=uri)
    if resume_id is not None:
        return MlflowTracker(client, resume_id)
    found = client.get_experiment_by_name(experiment)
    artefact_root = str((directory / "artifacts").resolve()) if uri.startswith("sqlite:") else None
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, artefact_root)
    run = client.create_run(experiment_id, run_name=name)
    for key, value in parameters.items():
        client.log_param(run.info.run_id, key, value)
    return MlflowTracker(client, run.info.run_id)
