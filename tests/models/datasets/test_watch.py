import hashlib
import subprocess
import sys

import numpy as np
import pytest

from sanderling.models.datasets import TEST, TRAIN, VALIDATION, load, watch
from sanderling.models.datasets.windows import split_by_time
from sanderling.models.errors import DatasetError, MissingError

pytest.importorskip("seglearn")  # brings the recordings


@pytest.fixture(scope="module")
def dataset():
    return load("watch")


def test_ten_people_seven_exercises(dataset):
    assert dataset.examples.shape == (4118, 100, 6)
    assert dataset.examples.dtype == np.float32
    assert dataset.client_names == tuple(f"watch-{person:02d}" for person in range(1, 11))
    for client in dataset.client_names:
        for part in (TRAIN, VALIDATION, TEST):
            assert set(dataset.for_client(client).part(part).labels) == set(range(7))


def test_content_hash_is_the_published_one(dataset):
    assert dataset.content_hash.hex()[:16] == "2472d48c20f75454"
    assert load("watch").content_hash == dataset.content_hash


def test_no_sample_serves_two_parts():
    starts, split = split_by_time(1000, window=100, step=50)
    used = {part: {t for s in starts[split == part] for t in range(s, s + 100)} for part in (0, 1, 2)}
    assert max(used[TRAIN]) < 640 <= min(used[VALIDATION])  # 0.8 * 0.8 * 1000
    assert max(used[VALIDATION]) < 800 <= min(used[TEST])
    assert starts.tolist() == [*range(0, 541, 50), 650, 700, *range(800, 901, 50)]


def test_windows_are_the_recordings_own(dataset):
    recordings, labels, people = watch.read_recordings()
    first = dataset.for_client(f"watch-{people[0]:02d}")
    assert first.labels[0] == labels[0]
    assert np.array_equal(first.examples[1], recordings[0][50:150])


def test_another_file_is_not_unpickled(tmp_path, monkeypatch):
    changed = tmp_path / "watch_dataset.npy"
    np.save(changed, np.array({"X": []}, dtype=object), allow_pickle=True)
    monkeypatch.setattr(watch, "_installed_file", lambda: changed)
    with pytest.raises(DatasetError, match=hashlib.sha256(changed.read_bytes()).hexdigest()):
        load("watch")


def test_missing_package_names_the_fix(monkeypatch):
    def absent(name):
        raise watch.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(watch.metadata, "distribution", absent)
    with pytest.raises(MissingError, match=r"pip install 'sanderling\[data\]'"):
        load("watch")


def test_watch_needs_only_numpy():
    script = (
        "import sys; from sanderling.models.datasets import load; load('watch');"
        "print(sorted({'seglearn', 'pandas', 'sklearn', 'torch', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
