"""The core under random schedules: whatever spheres and clients say in whatever order, its laws hold."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from control.decide import COME_S, LEAVE_S
from control.events import Event, GenerationBegun, GenerationProposed, OrderGiven, OrderTook, RunEnded
from control.losses import FOUNDING_S, _accusers, _why, _why_not_at_work, expelled
from control.plan import AGAIN_S, _for_seat, _knows_all, _view_for, tick_s
from control.protocol import End, Orders, Phase, Tick, View
from control.state import State
from tests.control.play import Play

PATHS = ("a/0", "a/1", "b/0")
TICK = Tick(incarnation=1)


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


def played(seed: int, kind: type[Play] = Play, steps: int = 300) -> Play:
    """So many steps of one schedule, or as far as its end."""
    chance, play = random.Random(seed), kind(*PATHS)
    for _ in range(steps):
        step(play, chance)
        if play.state.ended is not None:
            break
    return play


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
    play = played(seed)
    finish(play)
    check(play)
    assert play.state.status.value == "stopped"
    assert play.ended.reason and "\n" not in play.ended.reason


class Watched(Play):
    """Looks at the state after each fact, before anything that follows from it is said."""

    def happen(self, event: Event) -> None:
        super().happen(event)
        for later_s in (0.0, AGAIN_S + 0.01, 40.0, FOUNDING_S + 1.0):
            at_s = self.now_s + later_s
            check_look(self.state, at_s)
            beating = {sphere: replace(seat, heard_s=at_s) for sphere, seat in self.state.seats.items()}
            check_look(replace(self.state, seats=self.state.seats.having(beating)), at_s)


def check_look(state: State, now_s: float) -> None:
    """What a look passes over, for the sake of its speed, is nothing that the slow way would have found."""
    members = {member.sphere for member in state.members}
    for seat in state.seats.values():
        inside = seat.sphere in members
        if seat.connected and _knows_all(state, seat, now_s - tick_s(state.silence_s)):
            assert not list(_for_seat(state, seat, partial(_view_for, state), inside, TICK, now_s))
    found = expelled(state, now_s)
    accusers = _accusers(state)
    for seat in state.seats.values():
        if seat.connected and not (seat.expelled or seat.released or seat.refused):
            why = _why(state, seat, accusers[seat.sphere], now_s)
            if why or (seat.sphere in members and _why_not_at_work(state, seat, now_s)):
                assert found is not None and found.sphere == seat.sphere
                return
    assert found is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_a_look_that_is_quick_finds_what_a_slow_one_would(seed: int) -> None:
    """Control looks at a thousand spheres several times a second: those with nothing to be said are passed over."""
    played(seed, kind=Watched, steps=200)


def test_most_of_a_look_is_passed_over() -> None:
    """Else the law above would say nothing."""
    play = Play("0", "1").begin()
    for path in ("0", "1"):
        play.beat(path, Phase.COMPUTING)
    assert all(_knows_all(play.state, seat, play.now_s - tick_s(5.0)) for seat in play.state.seats.values())


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
def test_the_schedules_reach_every_kind_of_end(status: str) -> None:
    """Else the property above would say little."""
    for seed in range(400):
        play = played(seed)
        if play.state.ended is not None and play.state.ended.status == status:
            return
    raise AssertionError(f"no schedule of 400 ended as {status}")


def test_a_run_whose_spheres_never_come_ends_by_itself() -> None:
    """Without anybody there is nothing to heal."""
    play = Play(*PATHS)
    play.wait(COME_S + 0.1)
    assert play.ended.status == "failed" and "did not come" in play.ended.reason
