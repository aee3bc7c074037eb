"""tflite-runtime wants NumPy 1, so it is tried in an environment of its own, as a device would install it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, numpy as np
from sanderling.edge_runtime import backends
from sanderling.models import zoo
from sanderling.models.tail import dense_head

package = zoo.package("watch-cnn")
head = dense_head(package.network)
shape = package.network.tensors[package.network.inputs[0]].shape[1:]
inputs = np.random.default_rng(0).normal(0, 16, (64, *shape)).round().clip(-128, 127).astype(np.int8)
backend = backends.open_backend("tflite", package.network, head)
reference = backends.open_backend("reference", package.network, head)
print(json.dumps({
    "numpy": np.__version__, "name": backend.name, "exact": backend.exact,
    "drift": backends.drift_lsb(backend, reference, inputs),
    "spread": int(np.ptp(backend.features(inputs).astype(int))),
}))
"""


def test_the_tflite_runtime_backend_runs_in_its_own_environment(tmp_path: Path) -> None:
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime 2.14 has no build for Python 3.12 or newer")
    uv = shutil.which("uv", path=None) or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))
    if uv is None:
        pytest.skip("uv is not installed: run the tests by ./start test")
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "environment"], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, f"{ROOT}[tflite]"], check=True)
    done = subprocess.run([python, "-c", SCRIPT], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["numpy"].startswith("1.")
    assert (told["name"], told["exact"]) == ("tflite", False)
    assert told["drift"] <= 2
    assert told["spread"] > 50  # features that say something
