"""Who gets a seat, who is refused by which sentence, and what is stale."""

from __future__ import annotations

import math

import msgspec
import pytest
from msgspec.structs import replace

from control.protocol import NO_GENERATION, Beat, Closed, End, Failed, Phase, Position, Ready, Row, View
from control.state import ControlStatus
from tests.control.play import Play


def test_a_path_that_the_tree_does_not_have_is_refused_by_name() -> None:
    """The sentence names the path; the run goes on waiting for the right one."""
    play = Play("0", "1")
    assert "no such path" in play.hello("2")
    assert "'2'" in play.hello("2") or "sphere 2" in play.hello("2")
    assert not play.state.seats and play.state.ended is None


def test_a_path_that_is_taken_is_refused_by_who_has_it() -> None:
    """A second process at a path does not harm the first."""
    play = Play("0", "1")
    assert play.hello("0", pid=7) == ""
    assert "taken by pid 7 on here" in play.hello("0", pid=8)
    assert play.came() == ["0"] and play.state.ended is None


def test_another_run_is_refused_with_both_ids() -> None:
    """A sphere that knocks at the wrong control hears so."""
    assert Play("0").hello("0", run_id="other") == "sphere 0: its run is 'other', this control's is 'run' [LW405]"


def test_the_same_process_gets_its_old_seat_back() -> None:
    """After a broken connection the id is the same; everything is told again."""
    play = Play("0", "1").begin()
    play.lose("0")
    pid = play.state.seats[1].hello.pid
    play.sent.clear()
    assert play.hello("0", pid=pid, sphere=1) == ""
    assert play.state.seats[1].connected
    assert 1 in play.told(View)
    play.wait(1.0)
    assert play.state.ended is None


def test_another_process_of_the_same_number_is_another_sphere() -> None:
    """In a container that is started anew the next process has its predecessor's number, name and host: the id is used
    once all the same, for it holds nothing."""
    play = Play("0", "1").begin()
    own = play.state.seats[1].hello
    another = msgspec.structs.replace(own, nonce="another")
    play.lose("0")
    assert play.knock(another) == ""
    assert play.state.sphere_at["0"] == 3
    assert not play.state.seats[1].connected and play.state.seats[3].proof is None
    play.lose("0")
    assert play.knock(msgspec.structs.replace(another, sphere=3)) == ""
    assert play.state.sphere_at["0"] == 3 and play.state.seats[3].connected


def test_a_sphere_that_comes_back_after_the_end_hears_of_the_end() -> None:
    """The word may have been lost with its connection; a stranger is refused then."""
    play = Play("0", "1").begin()
    play.say("1", Failed(text="no data"))
    assert set(play.told(End)) == {1, 2}
    play.sent.clear()
    assert play.hello("0", pid=play.state.seats[1].hello.pid, sphere=1) == ""
    assert set(play.told(End)) == {1}
    assert "the run is over" in play.hello("0", pid=9)


def test_a_returning_sphere_with_another_number_is_refused() -> None:
    """A number is used once, ever, and belongs to its path."""
    play = Play("0", "1").begin()
    assert "it says it is number 9" in play.hello("0", pid=play.state.seats[1].hello.pid, sphere=9)


def test_a_differing_fingerprint_ends_the_run_naming_field_and_both_values() -> None:
    """The first admitted sphere's fingerprint is the run's."""
    play = Play("0", "1")
    for path in ("0", "1"):
        play.hello(path)
    play.prove("0")
    play.prove("1", threads="2")
    assert play.ended.status == "failed"
    assert "sphere 1: its threads is '2', the others' is '1'" in play.ended.reason


def test_a_fingerprint_with_a_field_more_or_another_count_is_unequal() -> None:
    """Missing, additional, and the two numbers beside the fingerprint: all count."""
    for proof, named in (({"cuda": "12"}, "cuda"), ({"micro_batches": 4}, "micro_batches")):
        play = Play("0", "1")
        for path in ("0", "1"):
            play.hello(path)
        play.prove("0")
        play.prove("1", **proof)
        assert f"its {named} is" in play.ended.reason


@pytest.mark.parametrize("generation", [NO_GENERATION, (1, 2), (0, 1), (2, 1)])
def test_what_speaks_for_another_generation_is_dropped(generation: tuple[int, int]) -> None:
    """Closings and Readys of a generation that is not the newest are no facts."""
    play = Play("0", "1").begin()
    assert not play.say("0", Closed(generation=generation, version=1, digest="d"))
    assert not play.say("0", Ready(generation=generation, position=Position(), holds_state=True))
    assert play.close("0", version=1)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_row_of_a_former_generation_is_true_up_to_where_the_newest_began(version: int) -> None:
    """A version is unique: a report that was kept while control was away counts. What is above is made again."""
    play = Play("0", "1").begin()
    play.state = replace(play.state, begun=replace(play.begun, generation=(1, 9), position=Position(version=2)))
    assert play.say("0", Row(generation=(1, 1), version=version, check=1)) == (version <= 2)
    assert play.say("0", Row(generation=(1, 9), version=version, check=1))


def test_a_beat_overtaken_by_a_newer_one_is_dropped() -> None:
    """The newest heartbeat tells what is true."""
    play = Play("0").begin()
    old = Beat(generation=(1, 1), number=0, phase=Phase.PAUSED, position=Position())
    assert not play.say("0", old)
    beat = play.state.seats[1].beat
    assert beat is not None and beat.phase is Phase.COMPUTING


def test_orders_are_one_wanted_state_with_a_number() -> None:
    """Each order adds to what the former ones asked for."""
    play = Play("0", "1").begin()
    assert [play.order("pause"), play.order("set_learning_rate", 0.5), play.order("resume")] == ["", "", ""]
    wanted = [order.wanted for order in play.state.orders]
    assert [want.number for want in wanted] == [1, 2, 3]
    assert [(want.paused, want.learning_rate) for want in wanted] == [(True, None), (True, 0.5), (False, 0.5)]


def test_an_order_for_what_is_wanted_already_adds_nothing() -> None:
    """Twice is once, and says so."""
    play = Play("0").begin()
    play.order("pause")
    assert "already" in play.order("pause")
    assert len(play.state.orders) == 1


def test_a_repeated_request_acts_once() -> None:
    """The client may have missed the answer; the order is not given twice, even if another came between."""
    play = Play("0").begin()
    play.order("pause", request="r1")
    play.order("resume", request="r2")
    assert "already" in play.order("pause", request="r1")
    assert len(play.state.orders) == 2


@pytest.mark.parametrize("value", [None, 0.0, -1.0, math.nan, math.inf, 1e30, 1000.1])
def test_a_learning_rate_that_is_none_is_refused(value: float | None) -> None:
    """Above 0 and finite; 1e30 for 1e-3 would end the run one version later."""
    assert "expected a number above 0" in Play("0").order("set_learning_rate", value)


def test_after_stop_nothing_else_can_be_ordered() -> None:
    """Stop is the last word; saying it again is fine."""
    play = Play("0").begin()
    play.order("stop")
    assert "stopping" in play.order("pause")
    assert "already" in play.order("stop")
    assert play.state.status is ControlStatus.STOPPING
    play.close("0", reason="stopped")
    assert "over" in play.order("stop")


def test_an_unknown_order_is_refused_with_the_known_ones() -> None:
    """The sentence lists what control knows."""
    assert "pause, resume, stop, set_learning_rate" in Play("0").order("dance")


def growing(count: int) -> Play:
    """A run whose tree is what those say who come."""
    play = Play()
    play.state = replace(play.state, tree=f"*:{count}", paths=())
    return play


def test_a_run_that_waits_for_so_many_begins_with_whoever_they_are() -> None:
    """Anybody with a name of its own is let in; the first step waits for the count, and takes all that are there."""
    play = growing(3)
    for path in ("eu/lab-3/0", "north/0", "north/1"):
        assert not play.state.members
        assert play.hello(path) == "" and play.prove(path)
    assert set(play.members) == {"eu/lab-3/0", "north/0", "north/1"}


@pytest.mark.parametrize(("path", "said"), [("north/0/1", "north/0"), ("north", "north"), ("a b", "[LW402]")])
def test_a_tree_that_grows_stays_a_tree(path: str, said: str) -> None:
    """Nobody may be below a sphere, or where others have spheres below."""
    play = growing(2)
    assert play.hello("north/0") == ""
    refused = play.hello(path)
    assert "no place" in refused and said in refused
