"""From the data section of federation.toml to a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sanderling.config import FederationConfig
from sanderling.models import datasets


def dataset(config: FederationConfig) -> datasets.Dataset:
    """The data of `config.data`, every client's."""
    name, choices = data_options(config)
    return datasets.load(name, **choices)


def data_options(config: FederationConfig) -> tuple[str, dict[str, Any]]:
    """The name of the data set in models/datasets, and its options."""
    data = config.data
    if data.source == "watch":
        return "watch", {}
    if data.source in datasets.NAMES:
        partition = data.partition if data.partition != "natural" else "dirichlet"
        return data.source, {
            "partition": partition,
            "seed": config.federation.seed,
            "clients": data.clients,
            "alpha": data.alpha,
            "classes": data.classes_per_client,
        }
    return "folder", {
        "path": Path(data.source),
        "client": data.client_column,
        "label": data.label_column,
        "recording": data.recording_column or None,
        "window": data.window,
        "step": data.step,
        "seed": config.federation.seed,
    }
