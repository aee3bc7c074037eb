import pytest

from sanderling.coordinator.rounds import Announce, Carry, Finish, RecordClosed, RecordOpened, RecordReport


def closed(lab):
    return [effect.record for effect in lab.of(RecordClosed)]


def test_nothing_opens_before_enough_devices_are_there(lab) -> None:
    lab = lab(minimum=3)
    lab.announce("a", "b")
    assert lab.state.open is None and lab.effects == []
    lab.announce("c")
    assert lab.state.open.cohort == ("a", "b", "c")


def test_a_round_is_recorded_before_it_is_announced(lab) -> None:
    lab = lab()
    lab.announce("a", "b")
    assert [type(effect) for effect in lab.effects] == [RecordOpened, Announce]
    assert lab.effects[1].plan.cohort == ("a", "b")
    assert lab.effects[1].plan.deadline_unix_s == 1010.0


def test_a_round_closes_when_everyone_asked_has_reported(lab) -> None:
    lab = lab()
    lab.announce("a", "b")
    lab.report("a", value=1)
    lab.report("b", value=3)
    (record,) = closed(lab)
    assert record.committed and record.participants == ("a", "b") and record.stragglers == ()
    assert lab.state.model.theta.tolist() == [2, 3, 4, 5, 6, 7]  # (1 + 3) / 2 more than before
    assert lab.state.model.version == 1
    assert lab.state.open.number == 2


def test_a_report_is_recorded_when_it_is_taken(lab) -> None:
    lab = lab()
    lab.announce("a", "b")
    lab.report("a")
    assert [(effect.number, effect.report.device_id) for effect in lab.of(RecordReport)] == [(1, "a")]


def test_at_the_deadline_a_round_goes_on_with_its_quorum(lab) -> None:
    lab = lab(minimum=3)
    lab.announce("a", "b", "c")
    lab.report("a", "b")
    lab.tick(9.9)
    assert closed(lab) == []
    lab.tick(0.1)
    (record,) = closed(lab)
    assert record.committed and record.stragglers == ("c",)


def test_below_the_quorum_nothing_is_released(lab) -> None:
    lab = lab(minimum=3)
    lab.announce("a", "b", "c")
    before = lab.state.model
    lab.report("a", value=9)
    lab.tick(10)
    (record,) = closed(lab)
    assert not record.committed
    assert lab.state.model is before
    assert lab.state.open.number == 2


def test_nobody_waits_for_a_device_whose_last_will_came(lab) -> None:
    lab = lab(minimum=3)
    lab.announce("a", "b", "c")
    lab.report("a", "b")
    assert closed(lab) == []
    lab.announce("c", state="offline")
    assert [record.participants for record in closed(lab)] == [("a", "b")]
    assert lab.state.open.cohort == ("a", "b")


def test_over_selection_closes_with_the_reports_wanted(lab) -> None:
    lab = lab(cohort=2, expected_dropout=0.5, minimum=4)
    lab.announce("a", "b", "c", "d")
    assert lab.state.open.cohort == ("a", "b", "c", "d")
    lab.report("d", "b")
    assert closed(lab)[-1].participants == ("b", "d")


def test_lockstep_waits_for_every_report(lab) -> None:
    lab = lab(mode="lockstep")
    lab.announce("a", "b", "c")
    assert lab.state.open is None
    lab.announce("d")
    lab.report("a", "b", "c")
    lab.announce("d", state="offline")
    lab.tick(10**6)
    assert closed(lab) == []
    lab.announce("d")
    lab.report("d")
    assert closed(lab)[0].participants == ("a", "b", "c", "d")


def test_rounds_wait_while_too_few_devices_are_left(lab) -> None:
    lab = lab()
    lab.announce("a", "b")
    lab.report("a")
    lab.announce("b", state="offline")
    lab.tick(10)
    assert lab.state.open is None
    assert lab.of(Announce)[-1].plan.phase == "waiting"
    lab.announce("c")
    assert lab.state.open.cohort == ("a", "c")


def test_the_last_round_asks_for_evaluation_of_the_first_and_the_last_model(lab) -> None:
    lab = lab(count=1)
    lab.announce("a", "b")
    lab.report("a", "b", value=5)
    assert lab.state.final is lab.state.model
    plan = lab.of(Announce)[-1].plan
    assert plan.phase == "finished"
    assert [reference.version for reference in plan.evaluate] == [0, 1]
    assert {model.version for model in lab.of(Announce)[-1].models} == {0, 1}
    for device in ("a", "b"):
        assert not lab.state.done
        lab.deliver(device, lab.evaluation(), "evaluation")
    assert lab.of(Finish)[0].model.version == 1


def test_the_end_does_not_wait_for_ever_for_evaluations(lab) -> None:
    lab = lab(count=1)
    lab.announce("a", "b")
    lab.report("a", "b")
    lab.deliver("a", lab.evaluation(), "evaluation")
    lab.tick(9.9)
    assert not lab.state.done
    lab.tick(0.1)
    assert lab.state.done


def test_early_stopping_keeps_the_best_validated_model(lab) -> None:
    lab = lab(count=9, patience=2)
    lab.announce("a", "b")
    for correct in (3, 8, 6, 7):  # of the models of version 0, 1, 2, 3
        lab.report("a", "b", validation_correct=correct)
    assert lab.of(Announce)[-1].plan.phase == "finished"
    assert lab.state.final.version == 1


def test_an_abandoned_round_says_nothing_about_convergence(lab) -> None:
    lab = lab(patience=1, minimum=3)
    lab.announce("a", "b", "c")
    lab.report("a", validation_correct=0)
    before = lab.state.convergence
    lab.tick(10)
    assert lab.state.convergence == before


def test_rounds_of_an_epoch_share_a_mask(lab) -> None:
    lab = lab(density=0.5, mask_rounds=2)
    lab.announce("a", "b")
    epochs = []
    for _ in range(3):
        epochs.append(lab.of(Announce)[-1].plan.update.mask_epoch)
        lab.report("a", "b")
    assert epochs == [0, 0, 1]


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "a", "b")])
def test_the_order_of_reports_does_not_reach_the_model(lab, order: tuple[str, ...]) -> None:
    lab = lab(minimum=3)
    lab.announce("a", "b", "c")
    for device in order:
        lab.report(device, value=ord(device) % 5, num_examples=ord(device) % 7 + 1)
    # weights 7, 1, 2; values 2, 3, 4: 25 / 10
    assert lab.state.server.theta_q16.tolist() == [round((index + 2.5) * 65536) for index in range(6)]


def test_models_are_carried_in_chunks_as_soon_as_a_small_device_is_there(lab) -> None:
    lab = lab()
    lab.announce("a", "b")
    assert lab.of(Announce)[-1].chunk_sizes == frozenset() and lab.of(Carry) == []
    lab.announce("c", receive_buffer_bytes=1500)
    lab.announce("d", receive_buffer_bytes=255)  # too small for any chunk
    lab.announce("c", state="offline", receive_buffer_bytes=1500)
    assert [(effect.chunk_sizes, [m.version for m in effect.models]) for effect in lab.of(Carry)] == [
        ({1024}, [0])
    ]
    lab.announce("e", receive_buffer_bytes=256)
    assert lab.of(Carry)[-1].chunk_sizes == {256, 1024}
    lab.report("a", "b")
    lab.tick(10)
    assert lab.of(Announce)[-1].chunk_sizes == {256, 1024}


def test_a_plan_waits_for_no_chunks(lab) -> None:
    lab = lab()
    lab.announce("a", receive_buffer_bytes=512)
    lab.announce("b")
    assert [type(effect) for effect in lab.effects] == [Carry, RecordOpened, Announce]
    assert lab.of(Announce)[-1].chunk_sizes == {512}
