"""From model files of other tools to a network: int8 TensorFlow Lite, and ONNX with QuantizeLinear pairs."""

from __future__ import annotations

from pathlib import Path

from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.importers.graph import MAX_FILE_BYTES
from sanderling.models.importers.tflite import from_tflite
from sanderling.models.network import Network


def load(path: str | Path) -> Network:
    """The network in a file, told by its content, named after the file.

    ModelFormatError when it is malformed, too large, or holds what is not supported; UsageError when it cannot
    be read; MissingError for an ONNX file without the extra `models`.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise ModelFormatError(f"{path}: {size} bytes; a model file has at most {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model {path}: {error.strerror}") from error
    try:
        return from_bytes(data, path.stem)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error


def from_bytes(data: bytes, name: str = "network") -> Network:
    """The network in a file's bytes, TFLite or ONNX. Errors as `load`."""
    if data[4:8] == b"TFL3":
        return from_tflite(data, name)
    from sanderling.models.importers.onnx import from_onnx  # needs a library that a device may lack

    return from_onnx(data, name)
