"""The core under random schedules: whatever spheres and clients say in whatever order, its laws hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.decide import COME_S, LEAVE_S
from control.events import GenerationBegun, GenerationProposed, OrderGiven, OrderTook, RunEnded
from control.protocol import End, Orders, Phase, Tick, View
from tests.control.play import Play

PATHS = ("a/0", "a/1", "b/0")


def step(play: Play, chance: random.Random) -> None:
    """One thing happens: a sphere speaks, goes or comes back, a client orders, time passes."""
    path = chance.choice(PATHS)
    seat = play.state.seat_at(path)
    version = play.state.versions.version
    what = chance.randrange(20)
    if what < 3:
        play.wait(chance.choice([0.01, 0.1, 0.5]))
    elif what == 3:
        play.order(chance.choice(["pause", "resume", "set_learning_rate"]), chance.choice([0.1, 0.2]))
    elif what == 4 and chance.random() < 0.05:
        play.order("stop")
    elif seat is None:
        play.hello(path)
    elif not seat.connected:
        play.hello(path, pid=seat.hello.pid, sphere=seat.sphere)
    elif seat.proof is None:
        play.prove(path, threads=chance.choice(["1"] * 40 + ["2"]))
    elif what == 5 and chance.random() < 0.1:
        play.lose(path)
    elif what == 6 and chance.random() < 0.02:
        play.fail(path, "no")
    elif what < 10:
        play.ready(path, chance.choice(["d0"] * 40 + ["d1"]))
    elif what < 14:
        in_force = chance.randrange(len(play.state.orders) + 1)
        play.row(path, max(version + chance.choice([0, 1]), 1), check=chance.choice([0] * 80 + [1]), in_force=in_force)
    elif what == 14 and version > 5:
        play.close(path, version=version)
    else:
        broke = play.generation if chance.random() < 0.02 else (0, 0)
        play.beat(path, chance.choice(list(Phase)), version=version, failed_in=broke)


def finish(play: Play) -> None:
    """A person stops the run, and whoever is there obeys: it has to come to its end."""
    play.order("stop")
    for _ in range(40):
        for path in PATHS:
            seat = play.state.seat_at(path)
            if seat is None or seat.expelled:
                play.hello(path)
            elif not seat.connected:
                play.hello(path, pid=seat.hello.pid, sphere=seat.sphere)
            if play.state.ended is not None:
                break
            if play.state.seats[play.state.sphere_at[path]].proof is None:
                play.prove(path)
            play.ready(path)
            play.beat(path, Phase.CLOSING, version=play.state.versions.version)
            play.close(path, version=20, reason="stopped")
        play.wait(0.5)
        if play.state.ended is not None:
            break
    play.wait(LEAVE_S + 0.1)


def check(play: Play) -> None:
    """The laws, over all facts and all messages of the run."""
    generations = [event.generation for event in play.facts if isinstance(event, GenerationProposed)]
    assert generations == sorted(set(generations))
    begun = [event.generation for event in play.facts if isinstance(event, GenerationBegun)]
    assert set(begun) <= set(generations)
    given_ = [event.wanted.number for event in play.facts if isinstance(event, OrderGiven)]
    assert given_ == list(range(1, len(given_) + 1))
    took = [event.number for event in play.facts if isinstance(event, OrderTook)]
    assert took == sorted(set(took)) and all(number <= len(given_) for number in took)
    in_force = [order.version for order in play.state.orders if order.version is not None]
    assert in_force == sorted(in_force), "orders come into force in their order"
    assert len([event for event in play.facts if isinstance(event, RunEnded)]) == 1
    for sphere in play.state.seats:
        mine = [message for who, message in play.sent if who == sphere]
        ticks = [message.number for message in mine if isinstance(message, Tick)]
        assert ticks == sorted(set(ticks))
        known = 0
        for message in mine:
            orders = message.orders if isinstance(message, View | Orders) else []
            for order in orders:
                assert order.number <= known + 1, "a gap in a sphere's orders"
                known = max(known, order.number)
        ends = [number for number, message in enumerate(mine) if isinstance(message, End)]
        assert not ends or all(isinstance(message, End) for message in mine[ends[0] :]), "nothing is said after the end"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_schedule_keeps_the_laws_and_comes_to_one_end(seed: int) -> None:
    """No illegal move, no plan without an end, one end; then everybody is told and control stops."""
    chance = random.Random(seed)
    play = Play(*PATHS)
    for _ in range(300):
        step(play, chance)
        if play.state.ended is not None:
            break
    finish(play)
    check(play)
    assert play.state.status.value == "stopped"
    assert play.ended.reason and "\n" not in play.ended.reason


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
def test_the_schedules_reach_every_kind_of_end(status: str) -> None:
    """Else the property above would say little."""
    for seed in range(400):
        chance = random.Random(seed)
        play = Play(*PATHS)
        for _ in range(300):
            step(play, chance)
            if play.state.ended is not None:
                break
        if play.state.ended is not None and play.state.ended.status == status:
            return
    raise AssertionError(f"no schedule of 400 ended as {status}")


def test_a_run_whose_spheres_never_come_ends_by_itself() -> None:
    """Without anybody there is nothing to heal."""
    play = Play(*PATHS)
    play.wait(COME_S + 0.1)
    assert play.ended.status == "failed" and "did not come" in play.ended.reason
