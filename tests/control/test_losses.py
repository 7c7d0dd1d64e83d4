"""Who counts as lost, when, and what is said to it. The clock is the test's."""

from __future__ import annotations

import pytest

from control.events import SphereBarred
from control.losses import BAR_S, BUILDS, mute
from control.protocol import Expelled, Failed, Phase, View
from tests.control.play import Play

GRACE_S = 0.5
"""A tenth of the play's silence_s, for which a closed connection may stand again."""


def test_a_closed_connection_is_a_loss_after_a_tenth_of_silence_s_and_ends_nothing() -> None:
    """The others are called together without it."""
    play = Play("0", "1", "2").begin()
    play.lose("1")
    play.wait(GRACE_S - 0.01)
    assert play.generation == (1, 1)
    play.wait(0.02)
    assert play.generation == (1, 2) and play.members == ["0", "2"]
    assert set(play.told(View)) == {1, 3}
    assert play.state.ended is None


def test_a_connection_that_stands_again_in_time_is_no_loss() -> None:
    """The generation that runs goes on."""
    play = Play("0", "1").begin()
    play.lose("1")
    play.wait(GRACE_S - 0.01)
    play.hello("1", pid=101, sphere=2)
    play.beat("1")
    play.wait(1.0)
    assert play.generation == (1, 1)


def test_a_neighbour_whose_collective_broke_is_a_second_witness() -> None:
    """Then a closed connection counts at once."""
    play = Play("0", "1", "2").begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation)
    play.wait(0.01)
    assert play.generation == (1, 1)
    play.lose("1")
    assert play.generation == (1, 2) and play.members == ["0", "2"]


def test_silence_with_a_standing_connection_is_a_loss_after_three_times_silence_s() -> None:
    """A stuck process whose sockets still answer: it is thrown out, and the others go on."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.keep_beating(5.9, "0")
    assert play.generation == (1, 1)
    play.keep_beating(0.3, "0")
    assert "sphere 1 " in play.told(Expelled)[2].text and "not heard for 6 s" in play.told(Expelled)[2].text
    assert play.members == ["0"]


def test_whose_heartbeats_are_missing_for_silence_s_is_mute_while_its_connection_stands() -> None:
    """So of a thousand spheres the kernel is asked about those few."""
    play = Play("0", "1", "2").begin()
    play.keep_beating(5.0, "0", "2")
    assert mute(play.state, play.now_s) == []
    play.keep_beating(0.5, "0", "2")
    assert mute(play.state, play.now_s) == [2]
    play.lose("1")
    assert mute(play.state, play.now_s) == []


def test_who_computes_without_progress_is_stuck_and_thrown_out() -> None:
    """After three times silence_s, once it had shown that it can finish a micro-batch."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.beat("1", units_done=1)
    play.keep_beating(5.8, "1", units_done=1)
    assert not play.told(Expelled)
    for turn in range(5):
        play.beat("0", units_done=turn)
        play.beat("1", units_done=1)
        play.wait(0.1)
    assert set(play.told(Expelled)) == {2}
    assert "is stuck at version 0 while computing: no progress" in play.told(Expelled)[2].text


def test_a_first_micro_batch_may_take_as_long_as_it_does() -> None:
    """It may compile, or read its data for the first time."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.keep_beating(60.0, "0", "1", units_done=0)
    assert not play.told(Expelled)


def test_who_was_cut_off_from_control_is_not_stuck_when_it_is_back() -> None:
    """What it did meanwhile nobody could hear."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.keep_beating(1.0, "0", "1", units_done=1)
    play.lose("0")
    play.lose("1")
    play.wait(20.0)
    play.hello("0", pid=100, sphere=1)
    play.hello("1", pid=101, sphere=2)
    play.keep_beating(5.8, "0", "1", units_done=1)
    assert not play.told(Expelled) and play.generation == (1, 1)


@pytest.mark.parametrize("phase", [Phase.REDUCING, Phase.PAUSED, Phase.FETCHING, Phase.BUILDING, Phase.CLOSING])
def test_who_waits_for_others_is_not_stuck(phase: Phase) -> None:
    """Only computing can be."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.keep_beating(1.0, "0", "1", units_done=1)
    play.keep_beating(60.0, "0", "1", phase=phase, units_done=1)
    assert not play.told(Expelled)


def test_a_long_step_makes_stuck_later() -> None:
    """Five times the longest that was ever seen."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.row("0", 1, seconds={"step": 10.0})
    play.keep_beating(49.0, "0", "1", units_done=1)
    assert not play.told(Expelled)
    for turn in range(8):
        play.beat("0", units_done=turn)
        play.keep_beating(0.3, "1", units_done=1)
    assert set(play.told(Expelled)) == {2}


def test_the_last_one_is_never_stuck() -> None:
    """It holds the only state that there is."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.lose("1")
    play.wait(1.0)
    play.ready("0")
    play.keep_beating(60.0, "0", units_done=1)
    assert not play.told(Expelled) and play.state.ended is None


def test_a_ready_that_stays_out_is_a_loss() -> None:
    """It is there, and does not compute: it would have answered."""
    play = Play("0", "1", silence_s=1.0).begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation)
    play.keep_beating(0.7, "1")
    assert play.generation == (1, 2)
    play.ready("0")
    for _ in range(35):
        play.beat("0", Phase.FROZEN)
        play.beat("1", Phase.REDUCING)
        play.wait(0.1)
    assert "did not answer the roll call" in play.told(Expelled)[2].text
    assert play.generation == (1, 3) and play.members == ["0"]


def test_a_roll_call_waits_for_a_micro_batch_in_hand() -> None:
    """Whoever computes answers when it has finished that."""
    play = Play("0", "1", silence_s=1.0).begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation)
    play.keep_beating(0.7, "1")
    play.ready("0")
    for _ in range(100):
        play.beat("0", Phase.FROZEN)
        play.beat("1")
        play.wait(0.1)
    assert not play.told(Expelled) and play.generation == (1, 2)


def test_a_sick_sphere_is_thrown_out_and_the_others_go_on() -> None:
    """It said so itself; the run does not fail of it."""
    play = Play("0", "1").begin()
    play.say("1", Failed(text="its weights changed between two steps", sick=True))
    assert "can't trust its memory: its weights changed" in play.told(Expelled)[2].text
    assert play.members == ["0"] and play.state.ended is None


def test_the_one_that_made_a_tail_unsound_is_thrown_out_by_half_of_its_peers() -> None:
    """One accuser of three is not enough, two are."""
    play = Play("0", "1", "2", "3").begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation, accuses=3)
    assert not play.told(Expelled)
    play.beat("1", Phase.FROZEN, failed_in=play.generation, accuses=3)
    assert "made the tail unsound, say 2 of its peers" in play.told(Expelled)[3].text
    assert play.members == ["0", "1", "3"]


def test_an_accusation_of_an_older_generation_counts_for_nothing() -> None:
    """A heartbeat that lags behind throws nobody out."""
    play = Play("0", "1", "2").begin()
    play.beat("0", Phase.FROZEN, failed_in=(0, 9), accuses=3)
    play.beat("1", Phase.FROZEN, failed_in=(0, 9), accuses=3)
    assert not play.told(Expelled)


def test_whose_flag_a_repetition_did_not_confirm_is_thrown_out() -> None:
    """The row says whose it was."""
    play = Play("0", "1").begin()
    play.row("0", 1, suspects=[2])
    assert "did not confirm" in play.told(Expelled)[2].text
    assert play.members == ["0"]


def test_what_was_thrown_out_says_nothing_any_more() -> None:
    """Not a row, not a beat; its successor has the path with an id of its own."""
    play = Play("0", "1").begin()
    play.row("0", 1, suspects=[2])
    assert not play.row("1", 2)
    assert play.hello("1") == ""
    assert play.state.sphere_at["1"] == 3


def test_the_fewest_that_cover_all_broken_pairs_are_left_out() -> None:
    """Two can't reach the first: not the youngest of the first pair is blamed, once all have spoken."""
    play = Play("0", "1", "2").begin()
    play.beat("2", Phase.FROZEN, failed_in=play.generation, unreachable=[1])
    play.beat("1", Phase.FROZEN, failed_in=play.generation, unreachable=[1])
    play.wait(2.9)
    assert play.generation == (1, 1), "others may still be asking around"
    play.wait(0.2)
    barred = [event for event in play.facts if isinstance(event, SphereBarred)]
    assert [event.sphere for event in barred] == [1]
    assert "and sphere 1, 2 can't reach each other" in barred[0].text
    assert play.members == ["1", "2"]


def test_who_was_left_out_comes_back_and_each_time_later() -> None:
    """Twice as long each time, so that a broken link costs less and less."""
    play = Play("0", "1", "2", silence_s=1.0).begin()
    spans = []
    for _ in range(3):
        play.beat("0", Phase.FROZEN, failed_in=play.generation, unreachable=[3])
        play.wait(0.61)
        barred = [event for event in play.facts if isinstance(event, SphereBarred)][-1]
        spans.append(barred.until_s - barred.at_s)
        assert play.members == ["0", "1"]
        play.ready("0")
        play.ready("1")
        play.keep_beating(spans[-1] + 0.5, "0", "1", "2", phase=Phase.REDUCING)
        assert play.members == ["0", "1", "2"]
        for path in ("0", "1", "2"):
            play.ready(path)
    assert spans == pytest.approx([BAR_S[0], 2 * BAR_S[0], 4 * BAR_S[0]])


def test_generations_that_break_again_and_again_leave_the_youngest_out() -> None:
    """Without any evidence: else the same members would try for ever."""
    play = Play("0", "1", "2", silence_s=1.0).begin()
    for _ in range(BUILDS):
        for path in ("0", "1", "2"):
            play.beat(path, Phase.FROZEN, failed_in=play.generation)
        play.keep_beating(0.65, "0", "1", "2", phase=Phase.FROZEN, failed_in=play.generation)
        for path in ("0", "1", "2"):
            play.ready(path)
    assert play.members == ["0", "1"]
    assert any(isinstance(event, SphereBarred) and event.sphere == 3 for event in play.facts)


def test_a_version_that_was_made_forgets_what_broke_before() -> None:
    """Only generations that break in a row count."""
    play = Play("0", "1", "2", silence_s=1.0).begin()
    for version in range(1, 3 * BUILDS):
        for path in ("0", "1", "2"):
            play.beat(path, Phase.FROZEN, failed_in=play.generation)
        play.keep_beating(0.65, "0", "1", "2", phase=Phase.FROZEN, failed_in=play.generation)
        for path in ("0", "1", "2"):
            play.ready(path, version=version - 1)
        play.row("0", version)
    assert play.members == ["0", "1", "2"]
