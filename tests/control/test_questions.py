"""What clients ask and order without sockets: the core on a stage, and the queue before it."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from typing import Any, cast

import pytest
from msgspec.structs import replace

from control.clients import AT_ONCE, Clients, is_urgent
from control.door import Door
from control.protocol import Ask, Beat, Event, Expelled, Failed, Go, Orders, Phase, Position, View
from control.questions import answer, health_of, stats_of
from control.report import answer_order
from control.totals import merged
from control.watchers import AHEAD, Watchers
from control.wire import decode_at_client
from tests.control.play import Play


class Mailbox:
    """A door that keeps what was sent."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, identity: bytes, frame: bytes) -> bool:
        self.frames.append(frame)
        return True


def mailbox() -> tuple[Mailbox, Door]:
    box = Mailbox()
    return box, cast(Door, box)


# ---------------------------------------------------------------- terminate


def test_a_sphere_that_is_terminated_leaves_for_good_and_nobody_follows_it() -> None:
    """It is told so, and so is who comes to its path; the others are called, and agree on a version without it."""
    play = Play("0", "1", "2").begin()
    assert play.order("terminate", request="r", text="1") == ""
    assert play.told(Expelled)[2].final and "[LW414]" in play.told(Expelled)[2].text
    assert 2 not in play.told(Orders), "who never hears of the order has no part in a version that it is in force at"
    assert play.members == ["0", "2"] and set(play.told(View)) == {1, 3}
    play.lose("1")
    for path in ("0", "2"):
        play.ready(path)
        play.beat(path)
    assert play.told(Go)
    play.row("0", 1, in_force=1)
    said = answer_order(play.state, Ask(request="r", what="terminate", text="1"))
    assert (said.number, said.version) == (1, 1)
    assert "nobody is let in there any more [LW414]" in play.hello("1", former=100)


def test_a_sphere_is_let_in_again_where_one_was_terminated() -> None:
    """By one more order, and only there; what is so already is not ordered again."""
    play = Play("0", "1", "2").begin()
    assert "there is no sphere '7'" in play.order("spawn", text="7")
    assert "not terminated" in play.order("spawn", text="1")
    assert play.order("terminate", text="1") == "" and play.order("terminate", text="2") == ""
    play.lose("1")
    assert play.order("spawn", text="1") == ""
    assert play.state.wanted.terminated == ["2"]
    assert play.hello("1", former=2) == "", "another process of that path has a seat again"
    assert play.state.seat_at("1") is not None and len(play.state.orders) == 3


def test_the_last_holder_and_a_path_that_is_none_are_not_terminated() -> None:
    """Nothing of the run would be left; and what was ordered already is not ordered again."""
    play = Play("0", "1").begin()
    assert "there is no sphere '7'" in play.order("terminate", text="7")
    assert play.order("terminate", text="1") == ""
    assert "terminated already" in play.order("terminate", text="1")
    assert "[LW517]" in play.order("terminate", text="0")
    assert len(play.state.orders) == 1


# ---------------------------------------------------------------- rebalance


def test_a_rebalance_deals_by_the_newest_steps_also_where_it_saves_little() -> None:
    """Before anybody has shown how fast it is there is nothing to deal by; the same paces twice are one order."""
    play = Play("0", "1").begin()
    assert "has shown yet" in play.order("rebalance")
    for path, compute in (("0", 0.010), ("1", 0.011)):
        play.row(path, 1, own_units=4, seconds={"compute": 4 * compute, "step": 0.1})
    assert play.order("rebalance") == ""
    assert play.state.wanted.paces == {1: 0.010, 2: 0.011}
    assert "dealt so already" in play.order("rebalance")


# ---------------------------------------------------------------- health, stats, wait


def test_health_tells_who_computes_who_waits_who_is_stuck_and_who_is_lost() -> None:
    """By phase, by progress, by silence, by connection."""
    play = Play("0", "1", "2", "3", "4", silence_s=1.0).begin()
    play.beat("1", Phase.REDUCING)
    play.beat("2", units_done=1)
    play.lose("4")
    still = Beat(generation=play.generation, number=10**6, phase=Phase.COMPUTING, position=Position(), units_done=1)
    states = {each.path: each.state for each in health_of(play.state, play.now_s).spheres}
    assert states == {"0": "computing", "1": "waiting", "2": "computing", "3": "computing", "4": "lost"}
    play.now_s += 2.0
    play.say("2", still)
    assert {each.path: each.state for each in health_of(play.state, play.now_s).spheres} == {
        **dict.fromkeys("0134", "lost"),
        "2": "stuck",
    }


def test_health_tells_who_is_here_and_why_somebody_is_not() -> None:
    """Refused, failed, thrown out or away; silence alone is not being away. One that follows is here."""

    def here() -> dict[str, bool]:
        return {each.path: each.here for each in health_of(play.state, play.now_s).spheres}

    def why(path: str) -> str:
        return next(each.why for each in health_of(play.state, play.now_s).spheres if each.path == path)

    play = Play("0", "1", "2", silence_s=1.0).begin()
    play.now_s += 2.0
    assert here() == {"0": True, "1": True, "2": True}
    play.lose("1")
    assert play.hello("1", former=101) == "" and here()["1"] and not why("1")
    play.prove("1", threads="2")
    assert not here()["1"] and "its threads is '2'" in why("1")
    play.lose("1")
    assert play.hello("1", former=103) == "" and here()["1"]
    play.fail("1", "no data [LW101]")
    assert not here()["1"] and why("1").endswith("no data [LW101]")
    assert play.order("terminate", text="2") == "" and not here()["2"] and "[LW414]" in why("2")
    play.lose("0")
    assert here() == dict.fromkeys("012", False) and why("0") == ""


def test_while_control_has_just_started_anew_who_computed_counts_as_here() -> None:
    """They are about to be back, as far as anybody knows; who was away before is not."""
    play = Play("0", "1").begin()
    away = {sphere: replace(seat, connected=False) for sphere, seat in play.state.seats.items()}
    play.state = replace(play.state, seats=play.state.seats.having(away))
    assert not any(each.here for each in health_of(play.state, play.now_s).spheres)
    play.state = replace(play.state, adopting_s=play.now_s + 1.0)
    assert all(each.here for each in health_of(play.state, play.now_s).spheres)
    play.state = replace(play.state, paths=("0", "1", "2"))
    assert play.hello("2") == ""
    play.lose("2")
    assert [each.here for each in health_of(play.state, play.now_s).spheres] == [True, True, False]


def test_statistics_of_a_node_are_the_sums_of_the_spheres_under_it() -> None:
    """Level by level comes to the same as all at once."""
    paths = ("eu/a/0", "eu/a/1", "eu/b/0", "us/c/0")
    play = Play(*paths).begin()
    for number, path in enumerate(paths, start=1):
        seconds = {"compute": 0.1 * number, "wait": 0.2, "reduce": 0.3, "step": 1.0}
        play.row(path, 1, own_units=number, own_samples=10 * number, seconds=seconds)
    nodes = {node.path: node for node in stats_of(play.state)}
    assert list(nodes) == ["", "eu", "eu/a", "eu/a/0", "eu/a/1", "eu/b", "eu/b/0", "us", "us/c", "us/c/0"]
    for path, node in nodes.items():
        under = [leaf for leaf in paths if not path or leaf == path or leaf.startswith(f"{path}/")]
        assert node.spheres == len(under)
        assert node.totals == reduce(lambda one, other: merged((one, other)), [nodes[leaf].totals for leaf in under])
        assert node.totals.micro_batches == sum(1 + paths.index(leaf) for leaf in under)
    assert nodes["eu"].busy_s == pytest.approx(0.6) and nodes["eu"].sync_s == pytest.approx(0.9)


def test_what_is_waited_for_is_answered_when_it_has_come_or_never_will() -> None:
    """A version, a state; a run that has ended comes to nothing any more."""
    play = Play("0", "1").begin()

    def asked(value: float | None = None, text: str = "") -> Any:
        return answer(play.state, Ask(request="w", what="wait", value=value, text=text), play.now_s)

    assert asked(1.0) is None and asked(text="paused") is None and asked(text="running").ok
    assert "is no state of a run" in asked(text="asleep").text
    play.row("0", 1)
    assert asked(1.0).status.version == 1
    play.fail("0", "no more")
    assert not asked(9.0).ok and "[LW511]" in asked(9.0).text and asked(1.0).ok


# ---------------------------------------------------------------- who is heard first


def test_a_stop_and_what_spheres_say_do_not_wait_behind_a_thousand_questions() -> None:
    """They are never in the queue; of what is, a turn takes so much and no more, the oldest first."""
    clients = Clients(mailbox()[1])
    asks = [Ask(request=str(number), what="status") for number in range(1000)]
    for ask in asks:
        clients.queue(b"c", ask, True)
    assert is_urgent(Ask(request="s", what="stop")) and is_urgent(Failed(text="no data [LW101]"))
    assert not any(is_urgent(Ask(request="p", what=what)) for what in ("pause", "status", "watch", "heard"))
    assert [ask for _, ask, _ in clients.take()] == asks[:AT_ONCE] and len(clients) == 1000 - AT_ONCE


def test_who_does_not_read_its_story_is_sent_so_much_and_then_told_what_it_missed() -> None:
    """Another who reads misses nothing; what is left out is counted."""
    box, door = mailbox()
    watchers, play = Watchers(door), Play("0", "1").begin()
    status = answer(play.state, Ask(request="s", what="status"), 0.0)
    assert status is not None and status.status is not None
    watchers.add(b"slow", Ask(request="w", what="watch"), status.status)
    for number in range(AHEAD + 500):
        watchers.tell(Event(kind="row", text=str(number)), play.state, 0.0)
        watchers.flush()
    assert len(box.frames) == AHEAD
    watchers.heard(b"slow", AHEAD)
    watchers.tell(Event(kind="row", text="next"), play.state, 0.0)
    watchers.flush()
    lost, after = [decode_at_client(frame) for frame in box.frames[AHEAD:]]
    assert isinstance(lost, Event) and (lost.kind, lost.lost) == ("lost", 500)
    assert isinstance(after, Event) and after.text == "next"
    kinds = Counter(cast(Event, decode_at_client(frame)).kind for frame in box.frames)
    assert kinds == {"row": AHEAD + 1, "lost": 1}
