"""Who is waited for is named, when it matters, and nobody is named for jitter."""

from __future__ import annotations

import random

import pytest

from control.delays import slow_link, slowest_in_all
from control.report import status_of
from control.status import Totals, Waited
from tests.control.play import Play

PATHS = ("a/0", "a/1", "b/0", "b/1")
STEP_S = 0.2


def make_versions(play: Play, versions: range, late: dict[str, float], dice: random.Random) -> None:
    """Each sphere needs a tenth of a second and some luck, `late` ones so much more; all wait for the last."""
    for version in versions:
        done_s = {path: 0.1 + dice.uniform(0, 0.01) + late.get(path, 0.0) for path in PATHS}
        last = max(done_s, key=lambda path: done_s[path])
        for path in PATHS:
            wait_s = done_s[last] - done_s[path]
            play.row(path, version, slowest=last, seconds={"step": done_s[last] + 0.1, "wait": wait_s})


@pytest.mark.parametrize("path", PATHS)
def test_a_delay_of_50_ms_is_named_within_20_versions(path: str) -> None:
    """And forgotten within 20 after it has ended."""
    play, dice = Play(*PATHS).begin(), random.Random(7)
    make_versions(play, range(1, 101), {}, dice)
    assert status_of(play.state, 0.0).slowest is None
    make_versions(play, range(101, 121), {path: 0.05}, dice)
    found = status_of(play.state, 0.0).slowest
    assert found is not None and found.path == path
    assert found.wait_s == pytest.approx(0.05, abs=0.01) and found.share == pytest.approx(0.2, abs=0.05)
    make_versions(play, range(121, 141), {}, dice)
    assert status_of(play.state, 0.0).slowest is None


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_named_for_jitter(seed: int) -> None:
    """Now this one is last by a quarter of a step, now that one."""
    play, dice = Play("0", "1").begin(), random.Random(seed)
    for version in range(1, 41):
        last = dice.choice("01")
        for path in "01":
            wait_s = 0.05 * dice.random() if path != last else 0.0
            play.row(path, version, slowest=last, seconds={"step": STEP_S, "wait": wait_s})
        found = status_of(play.state, 0.0)
        assert version < 20 or found.slowest is None


def test_one_long_wait_names_nobody() -> None:
    """The first step of a process is slow; that is no slow sphere."""
    play, dice = Play(*PATHS).begin(), random.Random(1)
    make_versions(play, range(1, 2), {"b/1": 30.0}, dice)
    make_versions(play, range(2, 12), {}, dice)
    assert status_of(play.state, 0.0).slowest is None


def test_the_whole_run_was_late_for_the_one_that_most_waiting_was_for() -> None:
    others = {path: Totals(versions=10, seconds={"step": 2.0}, held_up_s=0.05) for path in PATHS[:3]}
    late = Totals(versions=10, seconds={"step": 2.0}, held_up_s=1.5)
    assert slowest_in_all({**others, "b/1": late}) == Waited(path="b/1", wait_s=0.05, share=0.25)
    assert slowest_in_all(others) is None  # a twentieth of all steps would be too little, and so are thirds
    assert slowest_in_all({"a/0": late, "a/1": late}) is None  # two equals: neither made the run late
    assert slowest_in_all({"0": Totals(versions=3, seconds={"step": 1.0})}) is None
    assert slowest_in_all({}) is None


def test_a_planted_round_trip_names_the_link() -> None:
    """The newest that its leader tells; one that costs little is not told."""
    play, dice = Play(*PATHS).begin(), random.Random(3)
    make_versions(play, range(1, 30), {}, dice)
    for version, round_trip_s in ((30, 0.0004), (31, 0.0503)):
        links = {"a – b": round_trip_s, "a/0 – a/1": 0.0002}
        play.row("a/0", version, seconds={"step": STEP_S}, round_trips=links)
        found = status_of(play.state, 0.0)
        assert found.totals.round_trips == links
        assert (found.slow_link is not None) == (version == 31)
    assert found.slow_link is not None and (found.slow_link.name, found.slow_link.round_trip_s) == ("a – b", 0.0503)
    assert slow_link({}, 0.1) is None and slow_link({"a – b": 1.0}, None) is None
