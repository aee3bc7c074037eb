"""Does the demo's federation keep what the README says of it? Five seeds of `sanderling demo`, means and ratios as JSON."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from intervals import half_width_95


def demo(seed: int, directory: Path) -> dict:
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "sanderling.cli",
        "demo",
        "--seed",
        str(seed),
        "--json",
        "--dir",
        str(directory),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout) | {"wall_s": round(time.monotonic() - started, 1)}


def interval(values: list[float]) -> dict:
    """Mean and the half width of its 95 % interval (Student's t)."""
    half = half_width_95(values)
    return {
        "mean": round(statistics.mean(values), 5),
        "half_width_95": None if half is None else round(half, 5),
        "values": values,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as scratch:
        runs = [demo(seed, Path(scratch) / str(seed)) for seed in seeds]
    targets = [run["to_target"] for run in runs]
    head = runs[0]["fp32_head_bytes"]
    print(
        json.dumps(
            {
                "seeds": seeds,
                "accuracy": interval([run["accuracy"] for run in runs]),
                "accuracy_before": runs[0]["accuracy_before"],
                "accuracy_central": interval([run["accuracy_central"] for run in runs]),
                "federated_minus_central": interval(
                    [run["accuracy"] - run["accuracy_central"] for run in runs]
                ),
                "rounds_to_target": [target["rounds"] for target in targets],
                "fp32_fedavg_rounds_to_target": [target["fp32_fedavg_rounds"] for target in targets],
                "uplink_ratio_to_fp32_head_fedavg": interval(
                    [target["fp32_head_uplink_bytes"] / target["uplink_bytes"] for target in targets]
                ),
                "uplink_ratio_to_fp32_full_model_fedavg": interval(
                    [target["fp32_full_model_uplink_bytes"] / target["uplink_bytes"] for target in targets]
                ),
                "largest_update_bytes": max(run["largest_update_bytes"] for run in runs),
                "fp32_head_bytes": head,
                "largest_update_share_of_fp32_head": max(run["largest_update_bytes"] for run in runs) / head,
                "wall_s": [run["wall_s"] for run in runs],
                "model_hashes": [run["model_hash"][:16] for run in runs],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
