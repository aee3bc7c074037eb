import sqlite3
from pathlib import Path

import pytest

from sanderling.coordinator.ledger import FILE_NAME, Ledger, Run
from sanderling.coordinator.replay import replay, resume
from sanderling.coordinator.rounds import (
    Finish,
    RecordClosed,
    RecordEvaluation,
    RecordOpened,
    RecordReport,
)
from sanderling.models.errors import UsageError


class Recorder:
    """Carries a lab's effects into a ledger, as the service does."""

    def __init__(self, lab, directory: Path) -> None:
        self.lab, self.ledger, self.seen = lab, Ledger(directory), 0
        initial = lab.state.initial
        run = Run(id="run1", config="", network=b"n" * 100, network_hash=initial.backbone_hash, created=0.0)
        self.ledger.begin(run, initial)

    def write(self) -> None:
        for effect in self.lab.effects[self.seen :]:
            match effect:
                case RecordOpened(round=opened):
                    self.ledger.open_round(opened)
                case RecordReport(number=number, report=report):
                    self.ledger.add_reports(number, [report])
                case RecordClosed(record=record, model=model):
                    self.ledger.close_round(record, model)
                case RecordEvaluation(device_id=device, message=message):
                    self.ledger.add_evaluation(device, message)
                case Finish(model=model):
                    self.ledger.finish(1.0, model)
        self.seen = len(self.lab.effects)


@pytest.fixture
def recorder(lab, tmp_path):
    made = []

    def make(**changes: object) -> Recorder:
        made.append(Recorder(lab(**changes), tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


def some_rounds(recorder: Recorder) -> None:
    """One round with a straggler, one below the quorum, one under way with a report."""
    lab = recorder.lab
    lab.announce("a", "b", "c")
    lab.report("a", value=3, num_examples=4)
    lab.report("b", value=-2)
    lab.tick(10)
    lab.report("b")
    lab.tick(10)
    lab.report("c", value=9)
    recorder.write()


def test_replay_gives_the_run_s_own_model(recorder) -> None:
    recorder = recorder(minimum=3, density=0.5)
    some_rounds(recorder)
    result = replay(recorder.lab.settings, recorder.ledger)
    assert result.model_hash == recorder.lab.state.model.model_hash
    assert (result.rounds, result.reports, result.final) == (2, 3, False)


def test_a_resumed_state_is_the_state_that_was(recorder) -> None:
    recorder = recorder(minimum=3, density=0.5)
    some_rounds(recorder)
    resumed, was = resume(recorder.lab.settings, recorder.ledger), recorder.lab.state
    assert resumed.model.model_hash == was.model.model_hash
    assert (resumed.server.theta_q16 == was.server.theta_q16).all()
    assert (resumed.server.velocity_q16 == was.server.velocity_q16).all()
    assert (resumed.last_mean == was.last_mean).all()
    assert resumed.open.number == was.open.number == 3
    assert resumed.open.deadline == was.open.deadline
    assert {d: r.message for d, r in resumed.open.reports.items()} == {
        d: r.message for d, r in was.open.reports.items()
    }
    assert (resumed.convergence.best_correct, resumed.convergence.rounds_without_better) == (
        was.convergence.best_correct,
        was.convergence.rounds_without_better,
    )


def test_a_resumed_round_counts_each_report_once(recorder) -> None:
    recorder = recorder(count=1)
    recorder.lab.announce("a", "b")
    recorder.lab.report("a", value=3)
    recorder.write()
    undisturbed = recorder.lab.update(value=5)
    recorder.lab.state = resume(recorder.lab.settings, recorder.ledger)
    recorder.lab.announce("a", "b")
    with pytest.raises(Exception, match="already reported"):
        recorder.lab.report("a", value=3)
    recorder.lab.deliver("b", undisturbed)
    assert (recorder.lab.state.model.theta - recorder.lab.state.initial.theta).tolist() == [4] * 6


def test_a_finished_run_names_its_result(recorder) -> None:
    recorder = recorder(count=9, patience=1)
    lab = recorder.lab
    lab.announce("a", "b")
    lab.report("a", "b", validation_correct=8)
    lab.report("a", "b", validation_correct=3)
    for device in ("a", "b"):
        lab.deliver(device, lab.evaluation(), "evaluation")
    recorder.write()
    assert recorder.ledger.finished()
    assert recorder.ledger.final_model().version == 0
    assert replay(lab.settings, recorder.ledger).model_hash == lab.state.initial.model_hash


def test_a_changed_report_is_found_by_replay(recorder, tmp_path) -> None:
    recorder = recorder(count=2)
    recorder.lab.announce("a", "b")
    good, bad = recorder.lab.update(value=3), recorder.lab.update(value=4)
    recorder.lab.deliver("a", good)
    recorder.lab.report("b")
    recorder.write()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE report SET message = ? WHERE device = 'a'", (bad,))
    database.close()
    with pytest.raises(UsageError, match="round 1: the ledger says"):
        replay(recorder.lab.settings, recorder.ledger)


def test_a_damaged_model_is_found(recorder, tmp_path) -> None:
    recorder = recorder()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE model SET theta = ?", (bytes(12),))
    database.close()
    with pytest.raises(UsageError, match="damaged: model version 0"):
        recorder.ledger.model()


def test_a_report_cannot_be_stored_twice(recorder) -> None:
    recorder = recorder()
    recorder.lab.announce("a", "b")
    recorder.lab.report("a")
    recorder.write()
    (stored,) = recorder.lab.of(RecordReport)
    with pytest.raises(sqlite3.IntegrityError):
        recorder.ledger.add_reports(1, [stored.report])
    assert list(recorder.ledger.reports(1)) == ["a"]


def test_refusals_add_up(recorder) -> None:
    recorder = recorder()
    recorder.ledger.count_refusals({"duplicate": 2})
    recorder.ledger.count_refusals({"duplicate": 1, "codec": 4})
    assert recorder.ledger.refusals() == {"codec": 4, "duplicate": 3}


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(UsageError, match="expected a ledger of version 2, came version 99"):
        Ledger(tmp_path)


def test_an_empty_ledger_has_no_run_to_replay(lab, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(UsageError, match="the ledger is empty"):
        replay(lab().settings, ledger)
    ledger.close()
