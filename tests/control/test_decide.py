"""What ends a run, and when an order is in force. The clock is the test's."""

from __future__ import annotations

import pytest

from control.decide import COME_S, LEAVE_S
from control.events import SphereReported
from control.protocol import End, Go, Phase, Row
from tests.control.play import Play


def parted(end: str, phase: Phase = Phase.REDUCING, version: int = 3, closing: bool = False) -> Play:
    """Sphere 0 has ended its training at version 3, in its closing tail or beyond; sphere 1 is wherever it is."""
    play = Play("0", "1", silence_s=2.0).begin()
    for _ in range(6):
        if end == "waits":
            play.beat("0", Phase.REDUCING, version=3, closing=True)
        elif end == "closed":
            play.beat("0", Phase.CLOSING, version=3, closing=True)
            play.close("0", version=3)
        play.beat("1", phase, version=version, closing=closing)
        play.wait(0.5)
    return play


@pytest.mark.parametrize("end", ["waits", "closed"])
def test_spheres_that_disagree_about_the_number_of_steps_end_the_run_after_silence_s(end: str) -> None:
    """Each waits for the other for ever, and all look healthy: who ended where, who goes on, and the cure."""
    play = parted(end)
    assert play.ended.status == "failed" and 2.0 < play.ended.at_s < 3.0
    assert play.ended.reason == (
        "sphere 0 (pid 100 on here) ended its training at version 3, while sphere 1 (pid 101 on here) goes on: all "
        "spheres must make the same number of steps, so let no clock and no rank decide how many [LW808]"
    )


def test_an_end_is_missed_too_by_a_sphere_that_is_a_version_ahead() -> None:
    """The one that ended did not make the version from which the other one goes on."""
    assert "[LW808]" in parted("waits", version=4).ended.reason


@pytest.mark.parametrize(
    ("phase", "version", "closing"),
    [
        (Phase.REDUCING, 3, True),
        (Phase.COMPUTING, 3, False),
        (Phase.PAUSED, 3, False),
        (Phase.REDUCING, 2, False),
    ],
)
@pytest.mark.parametrize("end", ["waits", "closed"])
def test_an_end_that_the_others_may_still_reach_is_waited_for(
    end: str, phase: Phase, version: int, closing: bool
) -> None:
    """They are in the same tail, or on their way: in a long micro-batch, in a pause, in code between two steps."""
    assert parted(end, phase, version, closing).state.ended is None


@pytest.mark.parametrize("closing", [False, True])
def test_a_slow_network_is_no_disagreement(closing: bool) -> None:
    """All in one step, or all in one tail: that may take as long as it does, whatever was dealt to whom."""
    play = Play("0", "1", silence_s=2.0).begin()
    for dealt in range(100):
        play.beat("0", Phase.REDUCING, version=3, closing=closing, units_dealt=0)
        play.beat("1", Phase.REDUCING, version=3, closing=closing, units_dealt=dealt % 3)
        play.wait(0.5)
    assert play.state.ended is None


def test_a_disagreement_must_last_before_it_counts() -> None:
    """A script may leave on all spheres from within a step, on one a moment sooner than on the other."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.beat("1", Phase.REDUCING, version=3)
    play.wait(4.0)
    play.beat("0", Phase.REDUCING, version=3, closing=True)
    play.wait(1.5)
    play.beat("1", Phase.REDUCING, version=3, closing=True)
    play.wait(4.0)
    assert play.state.ended is None


def test_a_sphere_that_says_it_failed_ends_the_run_at_once_with_its_own_sentence() -> None:
    """NaN, a forward that raised, a full disk: no waiting, and the user's fault stays marked."""
    play = Play("0", "1").begin()
    play.fail("1", "loss is NaN in micro-batch 3")
    assert play.ended.reason == (
        "sphere 1 (pid 101 on here) failed at version 0 while computing: loss is NaN in micro-batch 3"
    )
    assert play.ended.usage is False


def test_a_sphere_that_never_comes_is_named() -> None:
    """After a time that a slow import fits into."""
    play = Play("0", "1")
    play.hello("0")
    while play.now_s < COME_S:
        play.beat("0", Phase.STARTING)
        play.wait(5.0)
    assert "sphere 1 did not come" in play.ended.reason


def test_an_agreed_version_that_is_contradicted_ends_the_run_naming_both_spheres() -> None:
    """In exact mode results are unique; what a tail found equal on all is agreed."""
    play = Play("0", "1").begin()
    play.row("0", 1, check=5)
    play.row("0", 2, check=6)
    play.row("1", 1, check=7)
    assert "version 1 is not one" in play.ended.reason
    assert "sphere 0 " in play.ended.reason and "sphere 1 " in play.ended.reason


def test_two_claims_of_a_version_are_settled_by_whose_tail_the_others_found_sound() -> None:
    """The sick one reported first; it did not make the next version, so the other's row was everybody's."""
    play = Play("0", "1", "2").begin()
    play.row("0", 1, check=5)
    play.row("1", 1, check=6)
    assert play.state.ended is None
    play.row("1", 2, check=7)
    assert play.state.ended is None
    row = play.state.versions.row(1)
    assert row is not None and row.check == 6
    play.row("2", 1, check=6)
    play.row("2", 2, check=7)
    assert play.state.ended is None


def test_whoever_has_fetched_the_next_version_and_tells_it_first_settles_nothing_by_that() -> None:
    """Two claims of a version, and a newcomer made the next with one of the two: what that one tells settles it."""
    play = Play("0", "1", "2").begin()
    play.row("0", 1, check=5)
    play.row("1", 1, check=6)
    play.row("2", 2, check=7)
    assert play.state.versions.row(1).check == 5 and play.state.ended is None  # type: ignore[union-attr]
    play.row("1", 2, check=7)
    assert play.state.versions.row(1).check == 6 and play.state.ended is None  # type: ignore[union-attr]


def test_in_float_mode_rows_are_informative_only() -> None:
    """Sums of floats are not unique."""
    play = Play("0", "1")
    for path in ("0", "1"):
        play.hello(path)
    for path in ("0", "1"):
        play.prove(path, reduction="float")
    for path in ("0", "1"):
        play.ready(path)
    play.row("0", 1, check=5)
    play.row("1", 1, check=6)
    assert play.state.ended is None


@pytest.mark.parametrize(("reason", "status"), [("completed", "completed"), ("stopped", "stopped")])
def test_equal_closings_of_all_end_the_run_as_it_should(reason: str, status: str) -> None:
    """Nobody is told to leave before the last one has closed."""
    play = Play("0", "1").begin()
    play.close("0", reason=reason)
    assert not play.told(End)
    play.close("1", reason=reason)
    assert play.ended.status == status
    assert set(play.told(End)) == {1, 2}


def test_unequal_closings_fail_naming_both() -> None:
    """The last version has one digest, on all."""
    play = Play("0", "1").begin()
    play.close("0", digest="aaa")
    play.close("1", digest="bbb")
    assert play.ended.status == "failed"
    assert "sphere 1 " in play.ended.reason and "aaa" in play.ended.reason and "bbb" in play.ended.reason


def test_control_stops_when_all_have_left_or_had_the_time_to() -> None:
    """Who does not leave does not hold control."""
    for last_leaves in (True, False):
        play = Play("0", "1").begin()
        play.fail("0", "no")
        play.lose("0")
        assert play.state.status.value == "stopping"
        if last_leaves:
            play.lose("1")
        else:
            play.wait(LEAVE_S + 0.01)
        assert play.state.status.value == "stopped"


def test_stop_before_the_first_step_ends_at_once() -> None:
    """Nothing has been computed, so there is nothing to end in order."""
    play = Play("0", "1")
    play.hello("0")
    play.order("stop")
    assert (play.ended.status, play.ended.reason) == ("stopped", "stopped before the first step")


def test_an_order_is_in_force_by_a_row_and_by_nothing_earlier() -> None:
    """Heard by all is not yet in force: the tail agrees it, and the row says so."""
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    for path in ("0", "1"):
        play.beat(path, seen=1)
    play.row("0", 1)
    assert play.state.orders[0].version is None
    play.row("0", 2, in_force=1)
    assert play.state.orders[0].version == 2


def test_while_paused_an_order_is_in_force_once_every_sphere_says_so() -> None:
    """There are no rows then; one sphere's word is not enough."""
    play = Play("0", "1").begin()
    play.order("pause")
    play.row("0", 4, in_force=1)
    assert play.state.status.value == "paused"
    play.order("resume")
    play.beat("0", Phase.PAUSED, version=4, in_force=2)
    assert play.state.orders[1].version is None
    play.beat("1", Phase.PAUSED, version=4, in_force=2)
    assert play.state.orders[1].version == 4
    assert play.state.status.value == "running"


def test_orders_given_during_a_pause_are_in_force_at_its_version_whatever_proves_it() -> None:
    """Up to the one that ends the pause; what comes after that is agreed by the next tail, as ever."""
    play = Play("0", "1").begin()
    play.order("pause")
    play.row("0", 4, in_force=1)
    play.order("set_learning_rate", 0.5)
    play.order("resume")
    play.order("set_learning_rate", 0.25)
    play.row("0", 5, in_force=4)
    assert [order.version for order in play.state.orders] == [4, 4, 4, 5]


def test_a_pause_and_its_end_agreed_by_one_tail_never_paused() -> None:
    """Both hold from that version on."""
    play = Play("0", "1").begin()
    play.order("pause")
    play.order("resume")
    play.row("0", 3, in_force=2)
    assert [order.version for order in play.state.orders] == [3, 3]
    assert play.state.status.value == "running"


def test_a_version_that_is_made_again_has_the_order_that_the_repetition_agreed() -> None:
    """One member had the first tail to itself and was left out; the others' repeated tail had heard one order more.

    They go on with that, so a replay has to use it from this version on; and what the first says comes too late.
    """
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    play.order("set_learning_rate", 0.25)
    play.lose("0")
    play.wait(0.6)
    play.ready("1")
    play.hello("0", pid=100, sphere=1)
    assert not play.row("0", 1, in_force=1, generation=(1, 1))
    assert play.state.versions.held == 0
    play.row("1", 1, in_force=2)
    assert [order.version for order in play.state.orders] == [1, 1]


def test_what_was_known_of_a_version_when_it_is_made_again_holds() -> None:
    """The first tail was told in time: its order is in the table of the replay."""
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    play.order("set_learning_rate", 0.25)
    play.lose("0")
    play.wait(0.6)
    play.happen(SphereReported(sphere=1, row=Row(generation=(1, 1), version=1, in_force=1), at_s=play.now_s))
    play.ready("1")
    go = play.told(Go)[2]
    assert (go.known, go.in_force, go.in_force_at) == (1, 0, {1: 1})


def test_rows_tell_earlier_than_a_generation_that_begins_later() -> None:
    """Control was away for some versions: the order holds from the first of them that says so."""
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    play.lose("0")
    play.wait(0.6)
    rows = [Row(generation=(1, 1), version=version, in_force=1) for version in (1, 2, 3)]
    for row in rows:
        play.happen(SphereReported(sphere=2, row=row, at_s=play.now_s))
    play.ready("1", version=3, in_force=1)
    assert play.begun.position.version == 3
    assert [order.version for order in play.state.orders] == [1]


def test_a_closing_tail_settles_the_last_version() -> None:
    """No row of a later one will ever say who was right: whoever closed there was, and the claim becomes its row."""
    play = Play("0", "1", "2").begin()
    play.row("0", 1, check=666)
    play.row("1", 1, check=7)
    assert play.state.versions.claims[1].row.check == 666, "nobody knows yet"
    play.close("1", version=1)
    assert play.state.versions.claims[1].row.check == 7 and not play.state.versions.rivals
