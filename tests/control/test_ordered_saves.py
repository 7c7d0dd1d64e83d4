"""Checkpoints by order: one at a time, answered when it is on the disk, made again until it is."""

from __future__ import annotations

import pytest

from control.admit import Already, Refusal, admit_order
from control.protocol import Answer, Ask, Go, SaveState, Stored
from control.report import answer_late, answer_order
from tests.control.play import Play, called

WRITING, WRITTEN, SEALED, FAILED = SaveState.WRITING, SaveState.WRITTEN, SaveState.SEALED, SaveState.FAILED


@pytest.fixture
def play() -> Play:
    """Two spheres that compute."""
    return Play("0", "1").begin()


def in_force(play: Play, version: int) -> None:
    for path in ("0", "1"):
        play.row(path, version, in_force=len(play.state.orders))


def whole(play: Play, version: int, **fields: object) -> None:
    for path in play.members:
        play.save(path, WRITTEN, version, **fields)
    play.save(play.members[0], SEALED, version, **fields)


def anew(play: Play, version: int) -> set[str | None]:
    """What the next generation is told to save."""
    called(play)
    play.settle()
    for path in play.members:
        play.ready(path, version=version, in_force=len(play.state.orders))
    return {go.save for go in play.told(Go).values()}


def late(play: Play, number: int = 1) -> Answer | None:
    return answer_late(play.state, Ask(request="request", what="any"), number)


def test_an_ordered_checkpoint_is_answered_when_it_is_whole(play: Play) -> None:
    """Not when the order is in force: the client waits for its bytes."""
    assert not play.order("checkpoint", request="request", text="best")
    assert (play.state.wanted.saves, play.state.wanted.save_as) == (1, "best")
    first = answer_order(play.state, Ask(request="request", what="checkpoint"))
    assert first.ok and (first.number, first.version) == (1, None)
    in_force(play, 5)
    assert play.state.orders[0].version == 5 and late(play) is None
    whole(play, 5, folder="best")
    answer = late(play)
    assert answer is not None and answer.ok and (answer.version, answer.checkpoint) == (5, "best")
    assert answer_order(play.state, Ask(request="request", what="checkpoint")).checkpoint == "best", "asked again"


def test_orders_after_it_carry_the_checkpoint_along(play: Play) -> None:
    """They are one wanted state: what grew once does not shrink."""
    play.order("checkpoint", text="best")
    play.order("pause")
    assert (play.state.wanted.saves, play.state.wanted.save_as) == (1, "best")


def test_one_checkpoint_is_ordered_at_a_time(play: Play) -> None:
    """The same again is the same order; another one waits until it is done."""
    play.order("checkpoint", text="best")
    again = admit_order(play.state, Ask(request="b", what="checkpoint", text="best"))
    assert isinstance(again, Already) and again.number == 1
    other = admit_order(play.state, Ask(request="c", what="checkpoint", text=""))
    assert isinstance(other, Refusal) and other.text.endswith("[LW516]")
    in_force(play, 5)
    whole(play, 5)
    assert not play.order("checkpoint", text="best") and play.state.wanted.saves == 2


@pytest.mark.parametrize("name", ["step-5", "a/b", ".hidden", "a" * 65, "with space"])
def test_a_name_that_a_folder_cant_have_is_refused(play: Play, name: str) -> None:
    assert "letters, digits, dots" in play.order("checkpoint", text=name)
    assert not play.state.orders


def test_a_run_that_is_stopping_takes_no_order_to_save(play: Play) -> None:
    """The stop saves."""
    play.order("stop")
    assert "stopping" in play.order("checkpoint") and "stopping" in play.order("restore")


def test_an_ordered_checkpoint_that_fails_is_answered_with_the_reason(play: Play) -> None:
    """It is done, though badly: another may be ordered."""
    play.order("checkpoint")
    in_force(play, 5)
    play.save("0", FAILED)
    answer = late(play)
    assert answer is not None and not answer.ok
    assert "the disk is full" in answer.text and answer.text.endswith("[LW608]")
    assert not play.order("checkpoint")


def test_a_save_that_began_before_the_order_is_not_the_ordered_one(play: Play) -> None:
    play.order("checkpoint")
    whole(play, 4, saves=0)
    in_force(play, 5)
    assert late(play) is None
    whole(play, 5)
    assert late(play) is not None


def test_one_that_the_tree_lost_is_made_again_under_its_name(play: Play) -> None:
    """The order stays until it is done, whatever becomes of its writers."""
    play.order("checkpoint", text="best")
    in_force(play, 5)
    for path in ("0", "1"):
        play.save(path, WRITING, folder="best")
    play.lose("1")
    play.wait(1.0)
    play.ready("0", version=5, in_force=1)
    assert play.told(Go)[1].save == "best" and late(play) is None
    whole(play, 6, folder="best")
    assert late(play) is not None


def test_one_of_which_nobody_said_a_word_is_owed(play: Play) -> None:
    """Its writers were gone before they could."""
    play.order("checkpoint", text="best")
    in_force(play, 5)
    assert anew(play, 5) == {"best"}


def test_one_in_flight_is_not_made_twice(play: Play) -> None:
    """All its writers are still there."""
    play.order("checkpoint", text="best")
    in_force(play, 5)
    for path in ("0", "1"):
        play.save(path, WRITING, folder="best")
    assert anew(play, 5) == {None}


def test_one_that_is_not_in_force_at_the_start_is_left_to_the_tail(play: Play) -> None:
    play.order("checkpoint", text="best")
    called(play)
    play.settle()
    for path in ("0", "1"):
        play.ready(path, version=5)
    assert {go.save for go in play.told(Go).values()} == {None}


def test_one_that_was_ordered_before_the_run_began_is_owed_from_the_start() -> None:
    """It is in force at version 0, where it grew for nobody."""
    play = Play("0", "1").gather()
    play.order("checkpoint", text="first")
    called(play)
    play.settle()
    for path in ("0", "1"):
        play.ready(path)
    assert {go.save for go in play.told(Go).values()} == {"first"}


def test_one_that_a_restore_overtook_is_owed_where_the_run_goes_on(play: Play) -> None:
    """In force from there on, and grown for nobody; also if it was in flight, for that is left behind."""
    play.order("checkpoint", text="best")
    in_force(play, 5)
    for path in ("0", "1"):
        play.save(path, WRITING, folder="best")
    play.order("restore")
    for path in ("0", "1"):
        play.ready(path, version=5, stored=[Stored(name="step-2", lineage=0, version=2, digest="d2")])
    assert {go.save for go in play.told(Go).values()} == {"best"}
