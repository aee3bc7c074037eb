import math
from pathlib import Path

import pytest

from sanderling.coordinator.tracking import local_uri, start_mlflow


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own, of the libraries under it
def test_a_run_is_in_mlflow_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = local_uri(tmp_path)
    first = start_mlflow(uri, "bench", "watch", {"round.count": 2}, tmp_path)
    first.log_round(1, {"validation_accuracy": 0.5, "uplink_bytes": 93})
    again = start_mlflow(uri, "bench", "watch", {}, tmp_path, first.run_id)
    again.log_round(2, {"validation_accuracy": 0.75, "uplink_bytes": 91})
    page = tmp_path / "report.html"
    page.write_text("x")
    again.finish({"accuracy": 0.7}, {"model_hash": "abc"}, page)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bench").experiment_id])
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.75)]
    assert run.data.params == {"round.count": "2"}
    assert math.isclose(run.data.metrics["accuracy"], 0.7)
    assert run.data.tags["model_hash"] == "abc"
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
