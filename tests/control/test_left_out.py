"""Who was left out because peers could not reach it, and how it comes back."""

from __future__ import annotations

import pytest

from control.events import SphereBarred
from control.losses import BAR_S
from control.protocol import Phase, View
from tests.control.play import Play


def left_out(silence_s: float = 1.0) -> Play:
    """Spheres 0 and 1 train on, 2 (number 3) was left out: 0 could not reach it."""
    play = Play("0", "1", "2", silence_s=silence_s).begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation, unreachable=[3])
    play.wait(0.61)
    assert play.members == ["0", "1"]
    train(play, "0", "1")
    return play


def train(play: Play, *paths: str) -> None:
    for path in paths:
        play.ready(path)
    for path in paths:
        play.beat(path)


def look(play: Play, seconds: float, unreachable: list[int]) -> None:
    """Time passes; the two train, and the third looks for them."""
    until_s = play.now_s + seconds
    while play.now_s < until_s:
        play.beat("0", Phase.REDUCING)
        play.beat("1", Phase.REDUCING)
        play.beat("2", Phase.FROZEN, unreachable=unreachable)
        play.wait(0.1)


def test_whoever_was_left_out_costs_nobody_a_generation_until_it_reaches_all() -> None:
    """However long that takes; then it is back after one roll call."""
    play = left_out()
    look(play, 20 * BAR_S[0], [1])
    assert play.generation == (1, 2)
    look(play, 0.4, [])
    assert (play.generation, play.members) == ((1, 3), ["0", "1", "2"])


def test_whoever_was_left_out_waits_for_its_time_though_it_reaches_all() -> None:
    """What a look finds is not all that a step needs."""
    play = left_out()
    look(play, 0.8 * BAR_S[0], [])
    assert play.generation == (1, 2)
    look(play, 0.4, [])
    assert play.members == ["0", "1", "2"]


def test_whoever_was_left_out_is_told_whom_to_look_for_and_is_not_believed_before() -> None:
    """What it says of an older generation is of other members."""
    play = left_out()
    play.beat("2", Phase.REDUCING, generation=(1, 1))
    assert [member.path for member in play.told(View)[3].members] == ["0", "1"]
    for _ in range(30):
        play.beat("0", Phase.REDUCING)
        play.beat("1", Phase.REDUCING)
        play.beat("2", Phase.REDUCING, generation=(1, 1))
        play.wait(0.1)
    assert play.generation == (1, 2)


def test_the_dead_need_not_be_reached() -> None:
    """Else nobody could take over from those who went on, and died."""
    play = left_out()
    look(play, 3 * BAR_S[0], [1])
    play.lose("0")
    for _ in range(5):
        play.beat("1", Phase.REDUCING)
        play.beat("2", Phase.FROZEN, unreachable=[1])
        play.wait(0.1)
    for _ in range(5):
        play.beat("1", Phase.FROZEN)
        play.beat("2", Phase.FROZEN)
        play.wait(0.1)
    assert play.members == ["1", "2"]


def test_a_version_made_together_forgets_that_somebody_was_left_out() -> None:
    """The next cut is another one: it begins with the shortest time again."""
    play = left_out()
    look(play, 1.5 * BAR_S[0], [])
    assert play.members == ["0", "1", "2"]
    train(play, "0", "1", "2")
    play.row("0", 1)
    play.beat("0", Phase.FROZEN, failed_in=play.generation, unreachable=[3])
    play.wait(0.61)
    spans = [event.until_s - event.at_s for event in play.facts if isinstance(event, SphereBarred)]
    assert spans == pytest.approx([BAR_S[0], BAR_S[0]])


def test_those_who_come_back_one_after_the_other_cost_one_generation() -> None:
    """They look at moments of their own."""
    play = Play("0", "1", "2", "3", silence_s=1.0).begin()
    for path in ("0", "1"):
        play.beat(path, Phase.FROZEN, failed_in=play.generation, unreachable=[3, 4])
    play.wait(0.61)
    assert play.members == ["0", "1"]
    train(play, "0", "1")
    for path in ("2", "3"):
        play.beat(path, Phase.FROZEN, unreachable=[1, 2])
    play.keep_beating(2 * BAR_S[0], "0", "1", phase=Phase.REDUCING)
    play.beat("2", Phase.FROZEN)
    play.keep_beating(0.1, "0", "1", phase=Phase.REDUCING)
    play.beat("3", Phase.FROZEN)
    play.keep_beating(0.4, "0", "1", phase=Phase.REDUCING)
    assert (play.generation, play.members) == ((1, 3), ["0", "1", "2", "3"])
