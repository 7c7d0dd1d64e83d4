"""The statuses and their table; the facts that can't follow."""

from __future__ import annotations

import itertools

import pytest

from control.apply import apply
from control.errors import IllegalMove
from control.events import GenerationProposed, OrderGiven, RunEnded
from control.protocol import Wanted
from control.state import MOVES, ControlStatus, State, moved
from tests.control.play import Play

LEGAL = {
    ("initializing", "running"),
    ("initializing", "stopping"),
    ("running", "paused"),
    ("running", "stopping"),
    ("paused", "running"),
    ("paused", "stopping"),
    ("stopping", "stopped"),
}


@pytest.mark.parametrize(("now", "to"), list(itertools.product(ControlStatus, ControlStatus)))
def test_every_move_is_legal_exactly_if_the_table_says_so(now: ControlStatus, to: ControlStatus) -> None:
    """All 25 pairs against a second table, written here."""
    assert set(MOVES) == set(ControlStatus)
    if now is to or (now.value, to.value) in LEGAL:
        assert moved(now, to) is to
    else:
        with pytest.raises(IllegalMove, match=f"{now.value} and can't become {to.value}"):
            moved(now, to)


def test_the_status_follows_the_run() -> None:
    """Initializing until Go, paused while a pause is in force, stopping from the order on, stopped when all left."""
    play = Play("0", "1").gather()
    seen = [play.state.status.value]
    for path in ("0", "1"):
        play.ready(path)
    seen.append(play.state.status.value)
    play.order("pause")
    seen.append(play.state.status.value)
    play.row("0", 1, in_force=1)
    seen.append(play.state.status.value)
    play.order("resume")
    for path in ("0", "1"):
        play.beat(path, version=1, in_force=2)
    seen.append(play.state.status.value)
    play.order("stop")
    seen.append(play.state.status.value)
    for path in ("0", "1"):
        play.close(path, version=2, reason="stopped")
    for path in ("0", "1"):
        play.lose(path)
    seen.append(play.state.status.value)
    assert seen == ["initializing", "running", "running", "paused", "running", "stopping", "stopped"]


@pytest.mark.parametrize(
    "event",
    [
        GenerationProposed(generation=(0, 0), members=(), at_s=0.0),
        OrderGiven(wanted=Wanted(number=2), what="pause", request=""),
    ],
)
def test_a_fact_that_can_not_follow_raises_and_changes_nothing(event: GenerationProposed | OrderGiven) -> None:
    """Generations rise, order numbers have no gap: else the fault is ours."""
    state = State(run_id="run", paths=("0",))
    with pytest.raises(IllegalMove):
        apply(state, event)
    assert state == State(run_id="run", paths=("0",))


def test_a_run_ends_once() -> None:
    """What ended can't end again otherwise: the status refuses it after everybody has left."""
    play = Play("0").begin()
    play.fail("0", "no")
    play.lose("0")
    with pytest.raises(IllegalMove):
        play.happen(RunEnded(status="completed", reason="", at_s=0.0))
    assert play.ended.status == "failed"
