import numpy as np
import pytest

from sanderling.demo.comparison import Person, Slice, central_head, float_fedavg, pooled
from sanderling.models.tail import DenseHead
from sanderling.models.training import LocalTraining, evaluate_head

HEAD = DenseHead(
    layer=0, features=4, classes=3, input_scale=0.05, input_zero_point=3, weight_scale=0.02, bias_input=20
)
TRAINING = LocalTraining(epochs=3, batch_size=8, learning_rate_q16=3277)


def examples(seed: int, count: int = 60) -> Slice:
    """Three well separated classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.array([[60, -60, 0, 0], [-60, 60, 0, 0], [0, 0, 60, -60]])
    features = np.clip(centres[labels] + rng.normal(0, 12, (count, 4)), -128, 127).astype(np.int8)
    return Slice(features=features, labels=labels)


PEOPLE = tuple(
    Person(device_id=f"d{n}", train=examples(n), validation=examples(10 + n, 20), test=examples(20 + n, 20))
    for n in range(3)
)
START = np.zeros(HEAD.dimension, dtype=np.int32)


def test_central_training_learns_separable_classes() -> None:
    theta = central_head(HEAD, START, PEOPLE, TRAINING, seed=1)
    test = pooled([person.test for person in PEOPLE])
    assert evaluate_head(HEAD, theta, test.features, test.labels).correct == 60


def test_float_fedavg_reaches_its_target_and_stops_there() -> None:
    run = float_fedavg(HEAD, START, PEOPLE, TRAINING, seed=1, target=0.95)
    assert run.rounds_to(0.95) == len(run.accuracies)
    assert run.rounds_to(1.01) is None


def test_float_fedavg_of_one_device_is_plain_sgd() -> None:
    torch = pytest.importorskip("torch")
    alone = PEOPLE[:1]
    run = float_fedavg(HEAD, START, alone, TRAINING, seed=1, target=2.0)
    inputs = (torch.tensor(alone[0].train.features.astype(np.float64)) - 3) * 0.05
    layer = torch.nn.Linear(4, 3).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=run.learning_rate)
    validation = (torch.tensor(alone[0].validation.features.astype(np.float64)) - 3) * 0.05
    from sanderling.models.random_bits import derive_key, permutation

    for number in range(3):
        for epoch in range(TRAINING.epochs):
            order = permutation(derive_key("fp32", 1, number, "d0"), 60, stream=epoch)
            for first in range(0, 60, 8):
                batch = order[first : first + 8]
                optimizer.zero_grad()
                target = torch.tensor(alone[0].train.labels[batch])
                torch.nn.functional.cross_entropy(layer(inputs[batch]), target).backward()
                optimizer.step()
        predicted = layer(validation).argmax(1).numpy()
        assert float((predicted == alone[0].validation.labels).mean()) == run.accuracies[number]
