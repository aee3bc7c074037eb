"""What a budget buys, worked by hand: a head that takes 10 ms a step and 1 ms an example, 160 examples.

An epoch in batches of 16 takes 10 steps, 0.1 + 0.16 = 0.26 s; in batches of 32, 5 steps and 0.21 s.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.edge_runtime.budget import Choice, RoundBudget, choose
from sanderling.edge_runtime.capability import CapabilityProfile, Device, TailCost
from sanderling.models.errors import UsageError
from sanderling.models.training import MAX_BATCH_SIZE, LocalTraining

PLAN = LocalTraining(epochs=10, batch_size=16, learning_rate_q16=655, proximal_mu_q16=7)
HEAD = TailCost(tail="head", step_s=0.010, example_s=0.001)
DEEP = TailCost(tail="last-2", step_s=0.020, example_s=0.010, memory_bytes=1 << 20)  # 1.8 s an epoch
EXAMPLES = 160


def profile(
    *tails: TailCost, memory_bytes: int | None = None, power_w: float | None = None
) -> CapabilityProfile:
    device = Device(board="bench", memory_available_bytes=memory_bytes, power_w=power_w)
    return CapabilityProfile(device=device, tails=tails or (HEAD,))


def bought(budget: RoundBudget, *tails: TailCost, examples: int = EXAMPLES) -> Choice:
    return choose(budget, profile(*tails), examples, PLAN)


def test_without_a_budget_the_plan_is_done() -> None:
    choice = bought(RoundBudget())
    assert choice.training == PLAN
    assert (choice.tail, choice.examples, choice.steps) == ("head", 160, 100)
    assert choice.seconds == pytest.approx(2.6)
    assert choice.reason == "head, all 10 epochs"


def test_a_budget_of_exactly_the_plan_is_enough() -> None:
    assert bought(RoundBudget(seconds=2.6)).training == PLAN


def test_a_shorter_time_makes_fewer_epochs() -> None:
    choice = bought(RoundBudget(seconds=1.0))
    assert (choice.training.epochs, choice.training.batch_size, choice.steps) == (3, 16, 30)
    assert choice.seconds == pytest.approx(0.78)
    assert choice.reason == "head, 3 of 10 epochs in batches of 16: budget 1 s"


def test_larger_batches_save_an_epoch_that_would_not_fit() -> None:
    choice = bought(RoundBudget(seconds=0.25))
    assert (choice.training.epochs, choice.training.batch_size, choice.steps) == (1, 32, 5)
    assert choice.seconds == pytest.approx(0.21)


@pytest.mark.parametrize(
    ("seconds", "batch", "examples", "steps", "takes"),
    [(0.10, 32, 64, 2, 0.084), (0.03, 16, 16, 1, 0.026)],
)
def test_less_than_an_epoch_takes_some_of_the_examples(
    seconds: float, batch: int, examples: int, steps: int, takes: float
) -> None:
    choice = bought(RoundBudget(seconds=seconds))
    assert (choice.training.epochs, choice.training.batch_size) == (1, batch)
    assert (choice.examples, choice.steps) == (examples, steps)
    assert choice.seconds == pytest.approx(takes)
    assert f"{examples} of 160 examples once" in choice.reason


def test_a_device_that_cannot_make_a_step_sits_out() -> None:
    choice = bought(RoundBudget(seconds=0.02))
    assert (choice.examples, choice.steps, choice.seconds) == (0, 0, 0.0)
    assert choice.reason == "sits out: not a step fits the budget (0.02 s)"


def test_a_device_without_examples_sits_out() -> None:
    assert bought(RoundBudget(), examples=0).reason == "sits out: it holds no examples"


@pytest.mark.parametrize(
    ("budget", "epochs", "batch", "steps"), [(25, 2, 16, 20), (7, 1, 32, 5), (3, 1, 32, 3)]
)
def test_a_budget_of_steps(budget: int, epochs: int, batch: int, steps: int) -> None:
    choice = bought(RoundBudget(steps=budget))
    assert (choice.training.epochs, choice.training.batch_size, choice.steps) == (epochs, batch, steps)


def test_energy_is_turned_into_time_by_the_board_s_power() -> None:
    choice = choose(RoundBudget(energy_mj=1600.0), profile(power_w=2.0), EXAMPLES, PLAN)
    assert choice.training.epochs == 3  # 0.8 s
    assert choice.energy_mj == pytest.approx(1560.0)  # 0.78 s at 2 W


def test_the_tightest_of_several_limits_counts() -> None:
    budget = RoundBudget(seconds=1.0, energy_mj=10_000.0, steps=10)
    choice = choose(budget, profile(power_w=2.0), EXAMPLES, PLAN)
    assert choice.steps == 10
    assert choice.reason.endswith("budget 1 s, 10000 mJ, 10 steps")


def test_a_budget_of_energy_needs_a_known_power() -> None:
    with pytest.raises(UsageError, match="unknown for 'bench': set the power, or a budget of seconds"):
        choose(RoundBudget(energy_mj=5.0), profile(), EXAMPLES, PLAN)


def test_the_deepest_tail_that_makes_the_whole_plan_is_trained() -> None:
    assert bought(RoundBudget(seconds=20.0), HEAD, DEEP).tail == "last-2"  # 18 s
    shallower = bought(RoundBudget(seconds=17.0), HEAD, DEEP)
    assert (shallower.tail, shallower.training.epochs) == ("head", 10)
    assert shallower.reason == "head, all 10 epochs, instead of last-2: budget 17 s, or memory"


def test_a_tail_beyond_the_memory_is_left_alone() -> None:
    small = profile(HEAD, DEEP, memory_bytes=(1 << 20) - 1)
    assert choose(RoundBudget(), small, EXAMPLES, PLAN).tail == "head"
    assert choose(RoundBudget(), profile(HEAD, DEEP, memory_bytes=1 << 20), EXAMPLES, PLAN).tail == "last-2"
    nothing = choose(RoundBudget(), profile(DEEP, memory_bytes=0), EXAMPLES, PLAN)
    assert nothing.reason == "sits out: no tail fits the memory"


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("name", ["seconds", "energy_mj", "steps"])
def test_a_budget_that_is_no_positive_number_is_refused(name: str, wrong: float) -> None:
    with pytest.raises(UsageError, match="expected a number of"):
        RoundBudget(**{name: wrong})


@given(
    seconds=st.floats(1e-4, 1e4),
    steps=st.integers(1, 10_000),
    step_s=st.floats(0, 0.1),
    example_s=st.floats(0, 0.01),
    examples=st.integers(0, 5000),
    epochs=st.integers(1, 30),
    batch=st.integers(1, MAX_BATCH_SIZE),
)
def test_no_choice_breaks_its_budget(
    seconds: float, steps: int, step_s: float, example_s: float, examples: int, epochs: int, batch: int
) -> None:
    cost = TailCost(tail="head", step_s=step_s, example_s=example_s)
    plan = LocalTraining(epochs=epochs, batch_size=batch, learning_rate_q16=1)
    choice = choose(RoundBudget(seconds=seconds, steps=steps), profile(cost), examples, plan)
    assert choice.seconds <= seconds * (1 + 1e-6)
    assert choice.steps <= steps
    assert choice.examples <= examples
    assert choice.training.epochs <= epochs
    assert batch <= choice.training.batch_size <= MAX_BATCH_SIZE
    assert choice.steps == choice.training.epochs * math.ceil(choice.examples / choice.training.batch_size)
