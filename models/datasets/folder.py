"""A user's own data: an NPZ, CSV or Parquet file, or a folder of them, where each example names its client.

docs/how-to/bring-your-own-data.md describes the layouts. NPZ files are read without pickle; a folder's files
are read in order of name and must agree. The files together may have LIMIT_BYTES, and so may their arrays.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format
from numpy.typing import NDArray

from sanderling.models.datasets.dataset import TRAIN, Dataset
from sanderling.models.datasets.images import random_split
from sanderling.models.datasets.windows import split_by_time
from sanderling.models.errors import DatasetError, MissingError, UsageError

LIMIT_BYTES = 256 << 20
MAX_CLASSES = 4096
SPLIT_NAMES = ("train", "validation", "test")
npy: Any = numpy.lib.format  # untyped before NumPy 2
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Names of the columns (CSV, Parquet) or arrays (NPZ), and how recordings are cut."""

    client: str = "client"
    label: str = "label"
    split: str = "split"  # optional in the file: train, validation, test, or 0, 1, 2
    recording: str | None = None  # given: rows are samples in order of time, to be cut into windows
    features: tuple[str, ...] = ()  # empty: every other column, in order of the file
    examples: str = "examples"  # NPZ only
    window: int = 100  # samples
    step: int = 50  # samples
    class_names: tuple[str, ...] = ()  # empty: "0", "1", ... up to the largest label


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one file holds; `split` None where the file does not say."""

    examples: NDArray[np.float32]
    labels: NDArray[np.int64]
    clients: NDArray[np.object_]  # of str
    split: NDArray[np.int8] | None


def load_folder(
    path: Path, layout: Layout, rng: np.random.Generator, *, limit_bytes: int = LIMIT_BYTES
) -> Dataset:
    """Examples as the files have them; where no split is given, recordings split by time, examples at random.

    DatasetError names the file, and the row and column where there is one.
    """
    files = _files(path, limit_bytes)
    parts = [_read(file, layout, limit_bytes) for file in files]
    _check_agreement(files, parts)
    client_names, clients = np.unique(np.concatenate([part.clients for part in parts]), return_inverse=True)
    labels = np.concatenate([part.labels for part in parts])
    owners = clients.astype(np.int32)
    given = [part.split for part in parts if part.split is not None]
    return Dataset(
        name=path.stem,
        examples=np.concatenate([part.examples for part in parts]),
        labels=labels,
        clients=owners,
        client_names=tuple(client_names.tolist()),
        split=np.concatenate(given) if given else random_split(owners, rng),
        class_names=layout.class_names or tuple(str(label) for label in range(int(labels.max()) + 1)),
    )


# The files


def _files(path: Path, limit_bytes: int) -> list[Path]:
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.suffix in _READERS) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: expected files ending in {', '.join(_READERS)}, the folder has none")
    total = sum(file.stat().st_size for file in files)
    if total > limit_bytes:
        raise DatasetError(f"{path}: {total} bytes, at most {limit_bytes} are read; leave some out")
    return files


def _read(file: Path, layout: Layout, limit_bytes: int) -> _Part:
    reader = _READERS.get(file.suffix)
    if reader is None:
        raise DatasetError(f"{file}: unknown file type, expected a name ending in {', '.join(_READERS)}")
    part = reader(file, layout, limit_bytes)
    if len(part.labels) == 0:
        raise DatasetError(f"{file}: expected at least one example, came none")
    return part


def _check_agreement(files: Sequence[Path], parts: Sequence[_Part]) -> None:
    for file, part in zip(files, parts, strict=True):
        expected, came = parts[0].examples.shape[1:], part.examples.shape[1:]
        if expected != came:
            raise DatasetError(f"{file}: examples of shape {came}, but {files[0].name} has {expected}")
        if (part.split is None) != (parts[0].split is None):
            raise DatasetError(f"{file}: either every file says the split or none; {files[0].name} differs")


# NPZ


def _read_npz(file: Path, layout: Layout, limit_bytes: int) -> _Part:
    arrays = _npz_arrays(file, (layout.examples, layout.label, layout.client, layout.split), limit_bytes)
    for name in (layout.examples, layout.label, layout.client):
        if name not in arrays:
            has = ", ".join(sorted(arrays)) or "none"
            raise DatasetError(f"{file}: array {name!r} is missing, it has {has}")
    examples = arrays[layout.examples]
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != len(examples):
            raise DatasetError(
                f"{file}: array {name!r} has shape {array.shape}, expected {len(examples)} rows"
            )
    if examples.ndim < 2 or examples.dtype.kind not in "fiu":
        raise DatasetError(
            f"{file}: array {layout.examples!r} is {examples.dtype}{examples.shape}, "
            "expected numbers (n, time, channels), (n, height, width, channels) or (n, features)"
        )
    examples = examples.astype(np.float32)
    if not np.isfinite(examples).all():
        row, *element = np.argwhere(~np.isfinite(examples))[0].tolist()
        raise DatasetError(
            f"{file}, array {layout.examples!r}, row {row}, element {element}: expected a finite number"
        )
    return _Part(
        examples=examples,
        labels=_labels(file, arrays, layout, first_row=0),
        clients=_texts(file, layout.client, arrays[layout.client], first_row=0),
        split=_split(file, arrays, layout, first_row=0),
    )


def _npz_arrays(file: Path, names: Sequence[str], limit_bytes: int) -> dict[str, NDArray[Any]]:
    """The named arrays that are there; a size is believed only when the archive's own agrees with it."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [members[name] for name in names if name in members]
            if sum(info.file_size for info in wanted) > limit_bytes:
                raise DatasetError(f"{file}: its arrays have more than the {limit_bytes} bytes that are read")
            return {info.filename.removesuffix(".npy"): _npy(archive, info) for info in wanted}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as problem:
        raise DatasetError(f"{file}: expected an NPZ archive of plain arrays ({problem})") from None


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"array {info.filename!r} holds Python objects")
        if int(np.prod([1, *shape], dtype=object)) * dtype.itemsize != info.file_size - stream.tell():
            raise ValueError(f"array {info.filename!r} is not of the length that its shape {shape} says")
    with archive.open(info) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        return array


# CSV and Parquet


def _read_csv(file: Path, layout: Layout, limit_bytes: int) -> _Part:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            columns = _csv_columns(file, csv.reader(lines, strict=True))
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DatasetError(f"{file}: expected comma-separated text in UTF-8 ({problem})") from None
    return _from_columns(file, columns, layout, first_row=2)


def _csv_columns(file: Path, rows: Iterator[list[str]]) -> Columns:
    header = next(rows, [])
    if len(set(header)) != len(header):
        raise DatasetError(f"{file}, row 1: a column name occurs twice in {', '.join(header)}")
    body: list[list[str]] = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DatasetError(f"{file}, row {number}: {len(row)} columns, the first row names {len(header)}")
        body.append(row)
    if not body:
        raise DatasetError(f"{file}: expected a row of column names and at least one row of data")
    columns = zip(*body, strict=True)
    return {name: np.array(column, dtype=object) for name, column in zip(header, columns, strict=True)}


def _read_parquet(file: Path, layout: Layout, limit_bytes: int) -> _Part:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as problem:
        raise MissingError(
            f"{file}: reading Parquet needs the package pyarrow ({problem}); "
            "install it with `pip install 'sanderling[data]'`, or save the data as CSV or NPZ"
        ) from None
    try:
        metadata = parquet.read_metadata(file)
        if metadata.num_rows * metadata.num_columns * 8 > limit_bytes:
            raise DatasetError(
                f"{file}: {metadata.num_rows} rows of {metadata.num_columns} columns are more than the "
                f"{limit_bytes} bytes that are read"
            )
        table = parquet.read_table(file)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
    except (arrow.ArrowException, OSError) as problem:
        raise DatasetError(f"{file}: expected a Parquet file ({problem})") from None
    return _from_columns(file, columns, layout, first_row=0)


def _from_columns(file: Path, columns: Columns, layout: Layout, *, first_row: int) -> _Part:
    reserved = [layout.label, layout.client, *([layout.recording] if layout.recording else [])]
    features = layout.features or tuple(name for name in columns if name not in (*reserved, layout.split))
    for name in (*reserved, *features):
        if name not in columns:
            raise DatasetError(f"{file}: column {name!r} is missing, it has {', '.join(columns)}")
    if not features:
        raise DatasetError(f"{file}: expected feature columns beside {', '.join(columns)}, there are none")
    numbers = [_numbers(file, name, columns[name], first_row) for name in features]
    rows = _Part(
        examples=np.stack(numbers, axis=1).astype(np.float32),
        labels=_labels(file, columns, layout, first_row=first_row),
        clients=_texts(file, layout.client, columns[layout.client], first_row),
        split=_split(file, columns, layout, first_row=first_row),
    )
    if layout.recording is None:
        return rows
    return _windowed(file, rows, _texts(file, layout.recording, columns[layout.recording], first_row), layout)


def _windowed(file: Path, rows: _Part, recordings: NDArray[np.object_], layout: Layout) -> _Part:
    """Each recording cut into windows; one whose rows differ in label (or in given split) is dropped."""
    if len(rows.labels) == 0:
        return rows
    if layout.window < 1 or layout.step < 1:
        raise UsageError(
            f"window and step: expected at least 1 sample, came {layout.window} and {layout.step}"
        )
    parts = []
    names, which = np.unique(recordings, return_inverse=True)
    for name, own in zip(names, _groups(which), strict=True):
        if len(owners := np.unique(rows.clients[own])) > 1:
            raise DatasetError(f"{file}: recording {name!r} has more than one client: {', '.join(owners)}")
        starts, split = split_by_time(len(own), window=layout.window, step=layout.step)
        if rows.split is not None:
            starts = np.arange(0, len(own) - layout.window + 1, layout.step)
        at = own[starts[:, None] + np.arange(layout.window)]
        keep = (rows.labels[at] == rows.labels[at[:, :1]]).all(axis=1)
        if rows.split is not None:
            split = rows.split[at[:, 0]]
            keep &= (rows.split[at] == split[:, None]).all(axis=1)
        at = at[keep]
        parts.append((rows.examples[at], rows.labels[at[:, 0]], rows.clients[at[:, 0]], split[keep]))
    examples, labels, clients, splits = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(labels) == 0:
        raise DatasetError(f"{file}: no recording has {layout.window} samples, one window, of one label")
    return _Part(examples=examples, labels=labels, clients=clients, split=splits)


def _groups(which: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each group 0, 1, ... the rows of it, in order."""
    return np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])


# One column


def _numbers(file: Path, name: str, column: NDArray[Any], first_row: int) -> NDArray[np.float64]:
    try:
        numbers = column.astype(np.float64)
        bad = ~(np.abs(numbers) <= np.finfo(np.float32).max)  # NaN too
    except (ValueError, TypeError):
        numbers, bad = np.empty(0), np.array([not _is_number(cell) for cell in column])
    if bad.any():
        row = int(bad.argmax())
        raise DatasetError(
            f"{file}, row {row + first_row}, column {name!r}: "
            f"expected a finite number, came {column[row]!s:.40}"
        )
    return numbers


def _is_number(cell: object) -> bool:
    try:
        return bool(np.isfinite(float(cell)))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False


def _labels(file: Path, columns: Columns, layout: Layout, *, first_row: int) -> NDArray[np.int64]:
    """Whole numbers 0..classes-1, or where class names are given, those names."""
    column = columns[layout.label]
    texts = _texts(file, layout.label, column, first_row) if layout.class_names else np.array([])
    if layout.class_names and set(texts) <= set(layout.class_names):
        return np.array([layout.class_names.index(text) for text in texts], np.int64)
    count = len(layout.class_names) or MAX_CLASSES
    numbers = _numbers(file, layout.label, column, first_row)
    bad = (numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= count)
    if bad.any():
        row = int(bad.argmax())
        raise DatasetError(
            f"{file}, row {row + first_row}, column {layout.label!r}: expected a label 0 to {count - 1}"
            f"{' or a class name' if layout.class_names else ''}, came {column[row]!s:.40}"
        )
    return numbers.astype(np.int64)


def _split(file: Path, columns: Columns, layout: Layout, *, first_row: int) -> NDArray[np.int8] | None:
    if layout.split not in columns:
        return None
    texts = _texts(file, layout.split, columns[layout.split], first_row)
    codes = {text: code for code, name in enumerate(SPLIT_NAMES, start=TRAIN) for text in (name, str(code))}
    for row, text in enumerate(texts):
        if text not in codes:
            raise DatasetError(
                f"{file}, row {row + first_row}, column {layout.split!r}: "
                f"expected {', '.join(SPLIT_NAMES)} or 0, 1, 2, came {text:.40}"
            )
    return np.array([codes[text] for text in texts], np.int8)


def _texts(file: Path, name: str, column: NDArray[Any], first_row: int) -> NDArray[np.object_]:
    texts = np.array(["" if cell is None else str(cell) for cell in column.tolist()], dtype=object)
    if (empty := texts == "").any():
        row = int(empty.argmax()) + first_row
        raise DatasetError(f"{file}, row {row}, column {name!r}: expected a value, came none")
    return texts


_READERS = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
