import subprocess
import sys

import numpy as np
import pytest

from sanderling.models.datasets import TEST, TRAIN, VALIDATION, load
from sanderling.models.errors import DatasetError, UsageError


def write(path, text):
    path.write_text(text)
    return path


ROWS = "client,x,y,label\nann,0.5,1,0\nann,1.5,2,1\nbob,2.5,3,1\n"


def test_csv_one_row_an_example(tmp_path):
    dataset = load("folder", path=write(tmp_path / "mine.csv", ROWS))
    assert dataset.name == "mine"
    assert dataset.examples.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]
    assert dataset.client_names == ("ann", "bob")
    assert dataset.for_client("bob").labels.tolist() == [1]
    assert dataset.class_names == ("0", "1")


def test_csv_names_of_columns_classes_and_split(tmp_path):
    text = "who,kind,part,b,a,note\nann,run,train,1,2,x\nann,rest,test,3,4,y\n"
    dataset = load(
        "folder",
        path=str(write(tmp_path / "mine.csv", text)),
        client="who",
        label="kind",
        split="part",
        features=["a", "b"],
        class_names=["rest", "run"],
    )
    assert dataset.examples.tolist() == [[2, 1], [4, 3]]
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.split.tolist() == [TRAIN, TEST]


def recordings(lengths, client="ann"):
    rows = [
        f"{name},{client},{t},{-t},{label}"
        for name, (length, label) in lengths.items()
        for t in range(length)
    ]
    return "\n".join(["recording,client,gx,gy,label", *rows])


def test_csv_recordings_are_windowed_and_split_by_time(tmp_path):
    path = write(tmp_path / "walk.csv", recordings({"one": (100, 0), "two": (50, 1)}))
    dataset = load("folder", path=path, recording="recording", window=10, step=10)
    assert dataset.examples.shape[1:] == (10, 2)
    one = dataset.where(dataset.labels == 0)
    assert one.examples[:, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 70, 80, 90]  # 60..70 lies across the cut
    assert one.split.tolist() == [TRAIN] * 6 + [VALIDATION] + [TEST] * 2
    assert one.examples[1, :, 1].tolist() == [-t for t in range(10, 20)]


def test_a_window_of_two_labels_is_dropped(tmp_path):
    rows = [f"r,ann,{t},{int(t >= 25)}" for t in range(100)]
    path = write(tmp_path / "walk.csv", "\n".join(["recording,client,gx,label", *rows]))
    dataset = load("folder", path=path, recording="recording", window=10, step=10)
    assert 20 not in dataset.examples[:, 0, 0]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_npz(tmp_path):
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.savez(
        tmp_path / "i.npz", examples=images, label=[0, 1], client=["a", "b"], split=[0, 2], more=[1, 2, 3]
    )
    dataset = load("folder", path=tmp_path / "i.npz")
    assert dataset.examples.dtype == np.float32
    assert np.array_equal(dataset.examples, images)
    assert dataset.split.tolist() == [TRAIN, TEST]


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"client": ["a", "b"], "label": [1, 0], "x": [1.5, 2.5], "y": np.array([1, 2], np.int16)}
    parquet.write_table(arrow.table(table), tmp_path / "t.parquet")
    csv = write(tmp_path / "t.csv", "client,label,x,y\na,1,1.5,1\nb,0,2.5,2\n")
    assert load("folder", path=tmp_path / "t.parquet").content_hash == load("folder", path=csv).content_hash
    parquet.write_table(arrow.table({**table, "x": [1.5, None]}), tmp_path / "t.parquet")
    with pytest.raises(
        DatasetError, match=r"t.parquet, row 1, column 'x': expected a finite number, came nan"
    ):
        load("folder", path=tmp_path / "t.parquet")
    parquet.write_table(arrow.table({**table, "client": ["a", None]}), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match=r"t.parquet, row 1, column 'client': expected a value, came none"):
        load("folder", path=tmp_path / "t.parquet")
    write(tmp_path / "t.parquet", "PAR1 no")
    with pytest.raises(DatasetError, match=r"t.parquet: expected a Parquet file"):
        load("folder", path=tmp_path / "t.parquet")


def test_a_folder_of_files_is_one_data_set(tmp_path):
    write(tmp_path / "b.csv", ROWS)
    write(tmp_path / "a.csv", ROWS.replace("ann", "zoe"))
    write(tmp_path / "notes.txt", "not data")
    dataset = load("folder", path=tmp_path)
    assert dataset.client_names == ("ann", "bob", "zoe")
    assert len(dataset) == 6


def test_the_same_seed_gives_the_same_hash(tmp_path):
    text = "client,x,label\n" + "".join(f"c,{i},{i % 3}\n" for i in range(50))
    path = write(tmp_path / "mine.csv", text)
    hashes = [load("folder", path=path, seed=seed).content_hash for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


BAD_CSV = {
    "": "expected a row of column names",
    "client,x,label\n": "at least one row of data",
    "client,x\na,1\n": "column 'label' is missing, it has client, x",
    "x,label\n1,0\n": "column 'client' is missing",
    "client,label\na,0\n": "expected feature columns",
    "client,x,x,label\na,1,1,0\n": "row 1: a column name occurs twice",
    "client,x,label\na,1,0\na,1\n": "row 3: 2 columns, the first row names 3",
    "client,x,label\na,1,0\na,nan,0\n": "row 3, column 'x': expected a finite number, came nan",
    "client,x,label\na,1,0\na,inf,0\n": "row 3, column 'x'",
    "client,x,label\na,1e39,0\n": "row 2, column 'x'",
    "client,x,label\na,1,0\na,warm,0\n": "row 3, column 'x': expected a finite number, came warm",
    "client,x,label\na,1,0\na,,0\n": "row 3, column 'x'",
    "client,x,label\na,1,0\na,1,1.5\n": "row 3, column 'label': expected a label 0 to 4095, came 1.5",
    "client,x,label\na,1,-1\n": "row 2, column 'label': expected a label",
    "client,x,label\na,1,4096\n": "row 2, column 'label': expected a label",
    "client,x,label\na,1,cat\n": "row 2, column 'label'",
    "client,x,label\n,1,0\n": "row 2, column 'client': expected a value, came none",
    "client,x,label,split\na,1,0,holdout\n": "row 2, column 'split': expected train",
    'client,x,label\na,"1,0\n': "expected comma-separated text",
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_bad_csv_is_named_with_row_and_column(tmp_path, text):
    with pytest.raises(DatasetError) as caught:
        load("folder", path=write(tmp_path / "bad.csv", text))
    assert "bad.csv" in str(caught.value)
    assert BAD_CSV[text] in str(caught.value)


def test_label_beyond_the_class_names(tmp_path):
    path = write(tmp_path / "mine.csv", ROWS)
    with pytest.raises(
        DatasetError, match=r"row 3, column 'label': expected a label 0 to 0 or a class name, came 1"
    ):
        load("folder", path=path, class_names=["only"])


def test_recordings_too_short_or_of_two_clients(tmp_path):
    path = write(tmp_path / "walk.csv", recordings({"one": (9, 0)}))
    with pytest.raises(DatasetError, match="no recording has 10 samples"):
        load("folder", path=path, recording="recording", window=10, step=5)
    with pytest.raises(UsageError, match="at least 1 sample"):
        load("folder", path=path, recording="recording", window=0)
    write(path, "recording,client,x,label\nr,a,1,0\nr,b,1,0\n")
    with pytest.raises(DatasetError, match="recording 'r' has more than one client: a, b"):
        load("folder", path=path, recording="recording", window=1, step=1)


def npz_arrays(**changes):
    arrays = {"examples": np.zeros((3, 4), np.float32), "label": [0, 1, 1], "client": ["a", "b", "b"]}
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


BAD_NPZ = [
    (npz_arrays(label=None), "array 'label' is missing, it has client, examples"),
    (npz_arrays(label=[0, 1]), r"array 'label' has shape \(2,\), expected 3 rows"),
    (npz_arrays(label=[0, 0.5, 1]), "row 1, column 'label'"),
    (npz_arrays(examples=np.zeros(3)), "expected numbers"),
    (npz_arrays(examples=np.array([["x"]] * 3)), "expected numbers"),
    (
        npz_arrays(examples=np.array([[0, 1], [2, 3], [4, np.nan]])),
        r"row 2, element \[1\]: expected a finite",
    ),
    (npz_arrays(examples=np.zeros((0, 4)), label=[], client=[]), "at least one example"),
    (npz_arrays(examples=np.array([[1], [1, 2], [3]], dtype=object)), "holds Python objects"),
]


@pytest.mark.parametrize(("arrays", "words"), BAD_NPZ)
def test_bad_npz_is_named(tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DatasetError, match=words) as caught:
        load("folder", path=tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_npz_whose_header_lies_about_its_size(tmp_path):
    import io
    import zipfile

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)}
    )
    np.savez(tmp_path / "lie.npz", label=[0], client=["a"])
    with zipfile.ZipFile(tmp_path / "lie.npz", "a") as archive:
        archive.writestr("examples.npy", stream.getvalue() + b"\0" * 64)
    with pytest.raises(DatasetError, match="not of the length that its shape"):
        load("folder", path=tmp_path / "lie.npz")


def test_damaged_npz_never_escapes_as_another_error(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **npz_arrays())
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load("folder", path=path)
        except DatasetError:
            refused += 1
    assert refused > 150


def test_files_that_disagree(tmp_path):
    write(tmp_path / "a.csv", ROWS)
    write(tmp_path / "b.csv", "client,x,label\nann,1,0\n")
    with pytest.raises(DatasetError, match=r"b.csv: examples of shape \(1,\), but a.csv has \(2,\)"):
        load("folder", path=tmp_path)
    write(tmp_path / "b.csv", "client,x,y,label,split\nann,1,1,0,train\n")
    with pytest.raises(DatasetError, match=r"b.csv: either every file says the split or none"):
        load("folder", path=tmp_path)


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        load("folder", path=tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"expected files ending in .npz, .csv, .parquet"):
        load("folder", path=tmp_path)
    with pytest.raises(DatasetError, match="unknown file type"):
        load("folder", path=write(tmp_path / "mine.xlsx", "x"))


def test_size_is_limited(tmp_path):
    from pathlib import Path

    from sanderling.models.datasets.folder import Layout, load_folder

    rng = np.random.default_rng(0)
    path = write(tmp_path / "mine.csv", ROWS)
    with pytest.raises(DatasetError, match=r"bytes, at most 10 are read"):
        load_folder(Path(path), Layout(), rng, limit_bytes=10)
    np.savez_compressed(tmp_path / "big.npz", **npz_arrays(examples=np.zeros((3, 100_000), np.float32)))
    with pytest.raises(DatasetError, match="more than the 100000 bytes that are read"):
        load_folder(tmp_path / "big.npz", Layout(), rng, limit_bytes=100_000)


def test_csv_and_npz_need_only_numpy(tmp_path):
    write(tmp_path / "mine.csv", ROWS)
    script = (
        f"import sys; from sanderling.models.datasets import load; load('folder', path={str(tmp_path)!r});"
        "print(sorted({'pandas', 'sklearn', 'torch', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
