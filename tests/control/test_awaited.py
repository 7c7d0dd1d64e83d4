"""What an order waits for, in words, by what control answers about the run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from control.awaited import NAMED, awaited
from control.protocol import Ask, Phase
from control.questions import answer
from control.state import State
from tests.control.play import Play


def play_on(tree: str, *paths: str) -> Play:
    play = Play(*paths)
    play.state = replace(play.state, tree=tree, paths=() if tree.startswith("*") else play.state.paths)
    return play


def words(state: State, number: int = 1) -> str:
    found = answer(state, Ask(request="mine", what="status"), 0.0)
    assert found is not None and found.status is not None
    return awaited(found.status, number)


@pytest.mark.parametrize("tree", ["3", "*:3"])
def test_before_the_first_step_it_is_said_how_many_of_how_many_spheres_are_here(tree: str) -> None:
    """Whether the tree names its paths or waits for so many; who has come and starts up is here."""
    play = play_on(tree, "0", "1", "2")
    assert words(play.state) == "the run has not begun, and 0 of 3 spheres are here"
    play.hello("0")
    assert words(play.state) == "the run has not begun, and 1 of 3 spheres is here"
    play.hello("1")
    play.lose("1")
    assert words(play.state) == "the run has not begun, and 1 of 3 spheres is here"
    play.hello("1")
    play.hello("2")
    assert words(play.state) == "the run has not begun, and the 3 spheres that are here start"


@pytest.mark.parametrize("tree", ["1x1", "*:1"])
def test_a_single_sphere_is_no_plural(tree: str) -> None:
    play = play_on(tree, "0/0")
    assert words(play.state) == "the run has not begun, and 0 of 1 sphere is here"
    play.hello("0/0")
    assert words(play.state) == "the run has not begun, and the sphere that is here starts"


def test_who_does_not_obey_is_named_by_path_with_what_it_does() -> None:
    """Who obeys is not, nor who is gone."""
    play = play_on("3", "0", "1", "2").begin()
    assert play.order("pause") == ""
    play.beat("0", in_force=1)
    play.beat("1", Phase.REDUCING)
    play.lose("2")
    assert words(play.state) == "not yet obeyed by sphere 1 (reducing at v0)"
    play.beat("1", in_force=1)
    assert words(play.state) == "all spheres obey, and what it asks for is under way"
    play.lose("0")
    play.lose("1")
    assert words(play.state) == "no sphere is here"


def test_of_very_many_only_some_are_named() -> None:
    paths = [str(number) for number in range(NAMED + 2)]
    play = play_on(str(len(paths)), *paths).begin()
    assert play.order("pause") == ""
    found = words(play.state)
    assert found.count("sphere ") == NAMED and found.endswith(", 2 more")
