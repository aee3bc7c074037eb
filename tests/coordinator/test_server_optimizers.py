import numpy as np

from sanderling.coordinator.server_optimizers import fedavg, fedavgm, initial_state
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.updates import Aggregate


def change(*values: float) -> Aggregate:
    mean = np.array([round(value * 65536) for value in values], dtype=np.int64)
    return Aggregate(mean=mean, total_weight=1, participants=("a",))


def theta(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_fedavg_adds_the_mean_change() -> None:
    state = fedavg().apply(initial_state(theta(100, -100)), change(3, -4))
    assert state.theta.tolist() == [103, -104]


def test_fractions_add_up_over_rounds_instead_of_being_lost() -> None:
    state, optimizer = initial_state(theta(0)), fedavg()
    for _ in range(4):
        state = optimizer.apply(state, change(0.25))
    assert state.theta.tolist() == [1]


def test_fedavgm_keeps_a_share_of_its_last_step() -> None:
    # v: 8, then 4 + 8 = 12, then 6; theta: 8, 20, 26
    state, optimizer = initial_state(theta(0)), fedavgm(learning_rate=1.0, momentum=0.5)
    seen = []
    for step in (8, 8, 0):
        state = optimizer.apply(state, change(step))
        seen.append(state.theta.tolist()[0])
    assert seen == [8, 20, 26]


def test_the_model_saturates_at_the_trainable_range() -> None:
    state = fedavg(learning_rate=16.0).apply(initial_state(theta(THETA_LIMIT)), change(30000))
    assert state.theta.tolist() == [THETA_LIMIT]


def test_momentum_follows_an_fp64_reference() -> None:
    rng = np.random.default_rng(0)
    state, optimizer = initial_state(theta(*range(50))), fedavgm(learning_rate=0.7, momentum=0.9)
    model, velocity = np.arange(50.0), np.zeros(50)
    for _ in range(200):
        step = rng.normal(0, 20, 50)
        state = optimizer.apply(state, change(*step))
        velocity = 0.9 * velocity + step
        model = model + 0.7 * velocity
    assert np.abs(state.theta - model).max() < 1.5
