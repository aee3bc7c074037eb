"""How far do other runtimes stray from the exact arithmetic on the same int8 weights? JSON, per model and runtime.

    python benchmarks/runtime_agreement.py --model keyword.tflite --tflite-runtime ~/tfl/bin/python

Each model (files given, and random networks of every operator) is exported as TFLite and as ONNX and run on random
int8 inputs; the reference is sanderling.models.inference. Reported: the share of equal bytes, the share of inputs with
the same prediction (arg max, for outputs of 2 to 100 values), the largest difference in steps of the output's scale.
A runtime that is not installed is left out. tflite-runtime needs NumPy 1 and so a Python of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from sanderling.models.edges import int8_edges
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.importers import load
from sanderling.models.inference import run
from sanderling.models.network import Network
from sanderling.models.specimens import operator_kinds, random_network

Runner = Callable[[Network, np.ndarray], np.ndarray]  # inputs (n, ...) to outputs (n, ...)

# Runs in another Python, without sanderling: model, inputs and outputs are files.
TFLITE_RUNTIME = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
model, inputs, outputs = sys.argv[1:]
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
results = []
for x in np.load(inputs):
    interpreter.set_tensor(source["index"], x.reshape(source["shape"]))
    interpreter.invoke()
    results.append(interpreter.get_tensor(target["index"]))
np.save(outputs, np.stack(results))
"""


def tflm(network: Network, inputs: np.ndarray) -> np.ndarray:
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    interpreter = Interpreter.from_bytes(to_tflite(network), arena_size=8_000_000)
    shape, outputs = network.tensors[network.inputs[0]].shape, []
    for x in inputs:
        interpreter.set_input(x.reshape(shape), 0)  # its memory is reused: set before every invoke
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy())
    return np.stack(outputs)


def litert(resolver: str) -> Runner:
    def runner(network: Network, inputs: np.ndarray) -> np.ndarray:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=to_tflite(network),
            experimental_op_resolver_type=OpResolverType[resolver],
            num_threads=1,
        )
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        outputs = []
        for x in inputs:
            interpreter.set_tensor(source["index"], x.reshape(source["shape"]))
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target["index"]))
        return np.stack(outputs)

    return runner


def onnx_runtime(level: str) -> Runner:
    def runner(network: Network, inputs: np.ndarray) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(to_onnx(network), options, providers=["CPUExecutionProvider"])
        shape = network.tensors[network.inputs[0]].shape
        return np.stack([session.run(None, {"input_0": x.reshape(shape)})[0] for x in inputs])

    return runner


def tflite_runtime(python: Path) -> Runner:
    def runner(network: Network, inputs: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as scratch:
            model, given, result = (str(Path(scratch) / name) for name in ("m.tflite", "x.npy", "y.npy"))
            Path(model).write_bytes(to_tflite(network))
            np.save(given, inputs)
            command = [str(python), "-c", TFLITE_RUNTIME, model, given, result]
            subprocess.run(command, check=True, capture_output=True)
            return np.load(result)

    return runner


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """What the two share, over inputs (n, ...)."""
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(ours), -1)
    difference = np.abs(ours.astype(np.int64) - theirs)
    figures = {
        "equal_bytes": round(float((difference == 0).mean()), 5),
        "largest_difference": int(difference.max()),
    }
    if 2 <= ours.shape[1] <= 100:
        figures["same_prediction"] = round(float((ours.argmax(1) == theirs.argmax(1)).mean()), 5)
    return figures


def compare(network: Network, runners: dict[str, Runner], count: int, seed: int) -> dict:
    """Agreement of each runtime with the reference on `count` random inputs, or why it has none."""
    shape = network.tensors[network.inputs[0]].shape[1:]
    inputs = np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)
    (ours,) = run(network, inputs)
    figures = {}
    for name, runner in runners.items():
        try:
            figures[name] = agreement(ours, runner(network, inputs))
        except ImportError:
            continue
        except subprocess.CalledProcessError as error:
            figures[name] = {"failed": error.stderr.decode(errors="replace").strip().splitlines()[-1][:200]}
        except (RuntimeError, ValueError) as error:
            figures[name] = {"failed": str(error).strip().splitlines()[0][:200]}
    return figures


def over_specimens(runners: dict[str, Runner], networks: int, count: int) -> dict:
    """Over `networks` random networks of one layer of each kind: the worst of each runtime."""
    kinds = {}
    for kind in operator_kinds():
        each = [
            compare(random_network(np.random.default_rng(seed), operator=kind), runners, count, seed)
            for seed in range(networks)
        ]
        kinds[kind] = {name: worst([figures[name] for figures in each]) for name in each[0]}
    return kinds


def worst(figures: list[dict]) -> dict:
    measured = [each for each in figures if "failed" not in each]
    summary: dict = {"failed": len(figures) - len(measured)} if len(measured) < len(figures) else {}
    if measured:
        summary["equal_bytes"] = min(each["equal_bytes"] for each in measured)
        summary["largest_difference"] = max(each["largest_difference"] for each in measured)
    return summary


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", default=[], help=".tflite or .onnx, int8")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--specimens", type=int, default=5, help="random networks of each operator; 0: none")
    parser.add_argument("--tflite-runtime", type=Path, help="a Python that has tflite-runtime")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runners: dict[str, Runner] = {
        "tflm": tflm,
        "litert_xnnpack": litert("AUTO"),
        "litert_reference": litert("BUILTIN_REF"),
        "onnxruntime": onnx_runtime("ORT_ENABLE_ALL"),
        "onnxruntime_unfused": onnx_runtime("ORT_DISABLE_ALL"),
    }
    if arguments.tflite_runtime is not None:
        runners["tflite_runtime"] = tflite_runtime(arguments.tflite_runtime)
    packages = ("tflite-micro", "ai-edge-litert", "onnxruntime", "numpy")
    figures = {
        "inputs": f"{arguments.inputs} of uniform random int8, seed 0",
        "machine": platform.machine(),
        "versions": {package: version(package) for package in packages} | {"python": sys.version.split()[0]},
        "models": {
            path.stem: compare(int8_edges(load(path)), runners, arguments.inputs, 0)
            for path in arguments.model
        },
        "operators": over_specimens(runners, arguments.specimens, 20) if arguments.specimens else {},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
