"""The file of a network: what devices load, so that the exact backend needs nothing but NumPy.

    magic "SNDRNET", version byte     8 bytes
    content hash of the network      32 bytes
    length of the header              4 bytes, little-endian
    header                            JSON, sorted keys, no spaces, ASCII
    for each tensor, in order         its scales as float32, then its data if it is constant, all little-endian

One encoding a network: `from_bytes` refuses any other, so equal files are equal networks and the other way round.
"""

from __future__ import annotations

import json
import math
import struct
import types
from dataclasses import asdict, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import Layer, Network, Operator, Quantization, Tensor

MAGIC = b"SNDRNET"
VERSION = 1
LIMIT_BYTES = 16 << 20
_PREFIX = struct.Struct("<7sB32sI")
_OPERATORS = {kind.__name__: kind for kind in get_args(Operator)}
_ITEM_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "int32": 4, "float32": 4}


def to_bytes(network: Network) -> bytes:
    """The file's bytes."""
    header = json.dumps(
        {
            "name": network.name,
            "tensors": [_tensor_header(tensor) for tensor in network.tensors],
            "layers": [_layer_header(layer) for layer in network.layers],
            "inputs": network.inputs,
            "outputs": network.outputs,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    prefix = _PREFIX.pack(MAGIC, VERSION, network.content_hash, len(header))
    return b"".join([prefix, header, *(_tensor_body(tensor) for tensor in network.tensors)])


def from_bytes(data: bytes) -> Network:
    """The network in a file. ModelFormatError for whatever `to_bytes` does not write; memory as the file's size."""
    if len(data) > LIMIT_BYTES:
        raise ModelFormatError(f"network file of {len(data)} bytes, at most {LIMIT_BYTES} are read")
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise ModelFormatError(
            "network file: expected the magic SNDRNET and a header, it is no .sanderling network"
        )
    _, version, content_hash, header_bytes = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ModelFormatError(f"network file of version {version}, this build reads version {VERSION}")
    body = _PREFIX.size + header_bytes
    try:
        header = json.loads(data[_PREFIX.size : body].decode("ascii"))
        network = _network(header, memoryview(data)[body:])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as problem:
        raise ModelFormatError(f"network file: malformed header ({problem!s:.120})") from None
    if network.content_hash != content_hash:
        raise ModelFormatError(
            f"network file: its content hash is {network.content_hash.hex()}, it says {content_hash.hex()}"
        )
    if to_bytes(network) != data:
        raise ModelFormatError("network file: expected its one encoding and nothing after it")
    return network


def _tensor_header(tensor: Tensor) -> dict[str, Any]:
    quantization = tensor.quantization
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "dtype": tensor.dtype,
        "zero_points": None if quantization is None else quantization.zero_points,
        "axis": None if quantization is None else quantization.axis,
        "constant": tensor.data is not None,
    }


def _tensor_body(tensor: Tensor) -> bytes:
    scales = () if tensor.quantization is None else tensor.quantization.scales
    data = b""
    if tensor.data is not None:
        data = np.ascontiguousarray(tensor.data, tensor.data.dtype.newbyteorder("<")).tobytes()
    return np.asarray(scales, "<f4").tobytes() + data


def _layer_header(layer: Layer) -> dict[str, Any]:
    kind = type(layer.operator).__name__
    return {
        "name": layer.name,
        "kind": kind,
        "fields": asdict(layer.operator),
        "inputs": layer.inputs,
        "outputs": layer.outputs,
    }


def _network(header: Any, body: memoryview) -> Network:
    tensors = []
    for entry in header["tensors"]:
        tensor, body = _tensor(entry, body)
        tensors.append(tensor)
    return Network(
        name=_typed(header["name"], str),
        tensors=tuple(tensors),
        layers=tuple(_layer(entry) for entry in header["layers"]),
        inputs=_typed(header["inputs"], tuple[int, ...]),
        outputs=_typed(header["outputs"], tuple[int, ...]),
    )


def _tensor(entry: Any, body: memoryview) -> tuple[Tensor, memoryview]:
    """The tensor, and what of the body comes after it."""
    shape = _typed(entry["shape"], tuple[int, ...])
    dtype = _typed(entry["dtype"], get_type_hints(Tensor)["dtype"])
    quantization = None
    if entry["zero_points"] is not None:
        zero_points = _typed(entry["zero_points"], tuple[int, ...])
        scales, body = _take(body, 4 * len(zero_points))
        quantization = Quantization(
            scales=tuple(np.frombuffer(scales, "<f4").tolist()),
            zero_points=zero_points,
            axis=_typed(entry["axis"], int | None),
        )
    data = None
    if _typed(entry["constant"], bool):
        content, body = _take(body, math.prod(shape) * _ITEM_BYTES[dtype])
        little_endian = np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)
        data = little_endian.astype(dtype)
        data.setflags(write=False)
    name = _typed(entry["name"], str)
    return Tensor(name=name, shape=shape, dtype=dtype, quantization=quantization, data=data), body


def _take(body: memoryview, count: int) -> tuple[memoryview, memoryview]:
    if not 0 <= count <= len(body):
        raise ValueError(f"a tensor of {count} bytes where {len(body)} are left")
    return body[:count], body[count:]


def _layer(entry: Any) -> Layer:
    kind = entry["kind"]
    if kind not in _OPERATORS:
        raise ValueError(f"unknown operator {kind!r:.40}")
    hints = get_type_hints(_OPERATORS[kind])
    given = {
        field.name: _typed(entry["fields"][field.name], hints[field.name])
        for field in fields(_OPERATORS[kind])
    }
    return Layer(
        name=_typed(entry["name"], str),
        operator=_OPERATORS[kind](**given),
        inputs=_typed(entry["inputs"], tuple[int, ...]),
        outputs=_typed(entry["outputs"], tuple[int, ...]),
    )


def _typed(value: Any, hint: Any) -> Any:
    """`value` out of JSON as a field of type `hint` holds it; TypeError when it is of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(value, arguments[0])
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_typed(item, kind) for item, kind in zip(value, kinds, strict=True))
    if origin is None and type(value) is hint:
        return value
    raise TypeError(f"expected {hint}, came {value!r:.40}")
