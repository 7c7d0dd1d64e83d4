"""A child that ends unasked is started anew, as often as the rule allows; one that is stopped for good is killed."""

from __future__ import annotations

import signal
from typing import Any, cast

from lightwatch.cli.kept import STOPPED_MOST_S, Kept
from lightwatch.cli.processes import Child


class Pretended:
    """A child whose end and stop are set by the test."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.stopped = self.was_killed = self.was_ended = False

    def code(self) -> int | None:
        return self.exit_code

    def is_stopped(self) -> bool:
        return self.stopped

    def kill(self) -> None:
        self.was_killed = True

    def end(self) -> None:
        self.was_ended = True


def kept(*lives: Pretended, final: tuple[int, ...] = (0,)) -> Kept:
    """A kept child with these lives, in this order."""
    rest = iter(cast(Any, lives))
    first: Child = next(rest)
    return Kept(first, lambda: cast(Child, next(rest)), lambda code: code in final)


def test_an_end_is_told_once_and_followed_by_the_next_life() -> None:
    """At once; what the former held is closed before."""
    first, second = Pretended(), Pretended()
    child = kept(first, second)
    assert child.look(0.0, 0) is None
    first.exit_code = -signal.SIGKILL
    assert child.look(1.0, 1) == -signal.SIGKILL
    assert not first.was_ended and child.child is cast(Any, first)
    assert child.look(1.0, 1) is None
    assert first.was_ended and child.child is cast(Any, second)
    assert (child.restarts, child.code) == (1, None)


def test_an_end_that_was_asked_for_is_for_good() -> None:
    """By its code, or because nobody needs it any more, also while it waits for its next life."""
    first = Pretended()
    child = kept(first)
    first.exit_code = 0
    assert child.look(0.0, 0) == 0 and child.code == 0 and child.look(0.0, 0) is None
    first = Pretended()
    child = kept(first)
    first.exit_code = -9
    assert child.look(0.0, 0, anew=False) == -9 and child.code == -9
    first = Pretended()
    child = kept(first)
    first.exit_code = -9
    assert child.look(0.0, 0) == -9 and child.code is None
    child.look(0.0, 0, anew=False)
    assert child.code == -9 and child.restarts == 0


def test_lives_in_which_the_run_came_no_further_are_counted() -> None:
    """The fifth in a row was the last; a version that came in between forgives them."""
    lives = [Pretended() for _ in range(12)]
    child, now_s = kept(*lives), 0.0
    for number, life in enumerate(lives[:9]):
        life.exit_code = -9
        assert child.look(now_s, 7 if number >= 3 else 0) == -9
        now_s += 10
        child.look(now_s, 7 if number >= 3 else 0)
    assert child.code == -9 and child.restarts == 8


def test_a_child_that_is_stopped_for_good_is_killed() -> None:
    """Not before, for it may go on; and going on is forgotten."""
    first = Pretended()
    child = kept(first)
    first.stopped = True
    child.look(0.0, 0)
    first.stopped = False
    child.look(STOPPED_MOST_S, 0)
    first.stopped = True
    child.look(STOPPED_MOST_S + 1, 0)
    child.look(2 * STOPPED_MOST_S, 0)
    assert not first.was_killed
    child.look(2 * STOPPED_MOST_S + 1.1, 0)
    assert first.was_killed
