"""From the ledger back to a state: to continue a run after a kill, or to compute its final model again from nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sanderling.coordinator.door import decode_report
from sanderling.coordinator.ledger import Ledger, StoredRound
from sanderling.coordinator.rounds import CoordinatorState, close, final_model, is_last, new_state
from sanderling.coordinator.settings import CoordinatorSettings
from sanderling.models.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The outcome of computing a run again."""

    rounds: int
    reports: int
    model_hash: bytes
    final: bool  # False: the run is still under way, the hash is of its newest model


def replay(settings: CoordinatorSettings, ledger: Ledger) -> Replay:
    """Computes every round again from the initial model and the accepted reports, through the pure core.

    Raises UsageError at the first round whose model is not the one the ledger recorded.
    """
    state = _fresh_state(ledger)
    reports = 0
    for stored in ledger.rounds():
        if stored.closed_at is None:
            break
        state, count = _close_again(settings, state, ledger, stored)
        reports += count
        recorded = ledger.model(stored.model_version)
        if recorded.model_hash != state.model.model_hash:
            raise UsageError(
                f"round {stored.opened.number}: the ledger says model {recorded.model_hash.hex()[:16]}, its reports "
                f"give {state.model.model_hash.hex()[:16]}: reports, settings or models were changed"
            )
    final = is_last(settings, state)
    model = final_model(settings, state) if final else state.model
    return Replay(rounds=state.rounds_closed, reports=reports, model_hash=model.model_hash, final=final)


def resume(settings: CoordinatorSettings, ledger: Ledger) -> CoordinatorState:
    """The state a run was in when its coordinator stopped: every report counted once, devices to announce themselves."""
    state = _fresh_state(ledger)
    for stored in ledger.rounds():
        if stored.closed_at is not None:
            state, _ = _close_again(settings, state, ledger, stored)
        else:
            state = _open_again(settings, state, ledger, stored)
    return replace(state, evaluations=ledger.evaluations())


def _fresh_state(ledger: Ledger) -> CoordinatorState:
    run = ledger.run()
    if run is None:
        raise UsageError(
            "the ledger is empty: there is no run to go back to; start one with `sanderling coordinator run`"
        )
    initial = ledger.model(0)
    return new_state(run.id, initial, len(run.network))


def _open_again(
    settings: CoordinatorSettings, state: CoordinatorState, ledger: Ledger, stored: StoredRound
) -> CoordinatorState:
    reports = {
        device: decode_report(
            settings.federation, stored.opened.update, state.model.theta.size, device, message
        )
        for device, message in ledger.reports(stored.opened.number).items()
    }
    return replace(state, open=replace(stored.opened, reports=reports))


def _close_again(
    settings: CoordinatorSettings, state: CoordinatorState, ledger: Ledger, stored: StoredRound
) -> tuple[CoordinatorState, int]:
    state = _open_again(settings, state, ledger, stored)
    assert state.open is not None and stored.closed_at is not None
    count = len(state.open.reports)
    state, _ = close(settings, state, stored.closed_at)
    return state, count
