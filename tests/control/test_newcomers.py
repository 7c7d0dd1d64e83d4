"""Who comes from another host is dialed, and dials, before it is a member of anything."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from control import newcomers
from control.apply import apply
from control.config import Settings
from control.decide import COME_S
from control.events import DURABLE, SphereCame, SphereRefused
from control.ledger import Ledger
from control.newcomers import DIAL_S, DIALS_MOST, MUTE, dial_s
from control.protocol import Dial, Dialed, Expelled, Hello, Phase, Refused
from control.recall import recalled
from control.state import State
from tests.control.hosts import Hosts, later, of_two
from tests.control.play import Play


def test_a_newcomer_is_a_member_once_it_is_dialed_and_has_dialed() -> None:
    """Its neighbours in the tree dial it, and it them; before that nobody is called, whatever else it has proved."""
    play = of_two()
    play.mute = {"north/0", "south/0", "west/0"}
    play.come("west/0")
    assert set(play.asked) == {
        ("north/0", "west/0"), ("south/0", "west/0"), ("west/0", "north/0"), ("west/0", "south/0")
    }  # fmt: skip
    later(play)
    assert play.members == ["north/0", "south/0"]
    for path, peers in (("north/0", [3]), ("south/0", [3]), ("west/0", [1, 2])):
        play.say(path, Dialed(tried=peers, gone=[]))
    later(play)
    assert play.members == ["north/0", "south/0", "west/0"]


@pytest.mark.parametrize("outwards", [False, True])
def test_a_newcomer_that_can_not_be_reached_is_refused_and_no_generation_is_lost(outwards: bool) -> None:
    """Nor one that does not reach the others. It is told who, where, from where, and what to do."""
    play = of_two()
    play.shut("west", "north", "south", outwards=outwards)
    play.come("west/0")
    text = play.refused()["west/0"]
    assert play.told(Refused)[3].text == text and text.endswith("[LW417]")
    assert "west/0" in text and "--interface" in text and "lightwatch doctor" in text
    if outwards:
        assert "it did not reach sphere north/0 at at north port 9 and" in text and "not reached" not in text
    else:
        assert "at at west port 9 it was not reached by sphere north/0 (at north) and" in text
    later(play, 3.0)
    assert (play.generation, play.members) == ((1, 1), ["north/0", "south/0"])
    assert set(play.refused()) == {"west/0"} and play.state.ended is None


def test_one_neighbour_that_does_not_reach_it_is_enough() -> None:
    """It would be in a group with either; the other's word mends nothing."""
    play = of_two()
    play.shut("west", "south")
    play.come("west/0")
    assert "south/0" in play.refused()["west/0"] and "north/0" not in play.refused()["west/0"]


def test_once_the_fault_is_mended_it_gets_in() -> None:
    """Under the same address of the same host: what was found before counts no more."""
    play = of_two()
    play.shut("west", "north", "south")
    play.come("west/0")
    assert play.refused()
    play.lose("west/0")
    play.closed.clear()
    play.come("west/0")
    later(play)
    assert play.members == ["north/0", "south/0", "west/0"]


def test_all_of_a_host_are_refused_by_one_proof() -> None:
    """Eight slots cost one dial each way, and are told at once."""
    play = of_two()
    play.mute = {"north/0"}
    paths = [f"west/{slot}" for slot in range(8)]
    play.shut("west", "north", "south")
    play.come(*paths)
    assert not play.refused()
    play.say("north/0", Dialed(tried=[3], gone=[3]))
    play.all_live(DIAL_S)
    assert sorted(play.refused()) == paths and len(set(play.asked)) == 4


def test_who_shares_a_network_stack_and_address_is_not_dialed() -> None:
    """One host's spheres reach each other without any network; a second one there is in as soon as it fits."""
    play = of_two()
    play.come("north/1", "south/1")
    later(play)
    assert not play.asked and play.members == ["north/0", "north/1", "south/0", "south/1"]


def test_another_address_of_a_host_is_another_place() -> None:
    """It may be that of a network which leads nowhere; its own host, which reaches it, is not asked."""
    play = of_two()
    play.shut("north", "south")
    play.come("north/1", address="10.99.0.2")
    assert set(play.asked) == {("south/0", "north/1"), ("north/1", "south/0")}
    assert set(play.refused()) == {"north/1"}


def test_spheres_that_say_nothing_of_a_stack_need_no_proof() -> None:
    play = Play("0", "1").begin()
    assert not play.state.reach.newcomers and not play.told(Dial)


def test_a_host_that_was_proven_once_is_not_dialed_again() -> None:
    """Whoever is restarted there, though none of it trains: while a link is cut it must not be refused for it."""
    play = of_two()
    play.lose("south/0")
    later(play)
    assert play.members == ["north/0"]
    play.train("north/0")
    play.shut("south", "north")
    play.come("south/0")
    later(play)
    assert not play.asked and not play.refused() and play.members == ["north/0", "south/0"]


def test_a_host_whose_kernel_was_started_anew_is_proven_anew() -> None:
    """Its firewall was, too."""
    play = of_two()
    play.lose("south/0")
    later(play)
    play.train("north/0")
    play.shut("south", "north")
    play.come("south/0", stack="after the boot")
    assert set(play.refused()) == {"south/0"}


# -------------------------------------------------------------------- before the first generation


def test_before_the_first_generation_the_one_that_nobody_reaches_is_named() -> None:
    """Though it came first; the run waits for another, and begins with it."""
    play = Hosts(3)
    play.shut("north", "south", "west")
    play.come("north/0", "south/0", "west/0")
    play.all_live(2.0)
    assert set(play.refused()) == {"north/0"} and play.state.generation == (0, 0) and play.state.ended is None
    play.closed.clear()
    play.lose("north/0")
    play.come("north/0")
    assert play.members == ["north/0", "south/0", "west/0"]


def test_before_the_first_generation_who_reaches_nobody_is_named_rather_than_those_whom_it_misses() -> None:
    play = Hosts(4)
    hosts = ("north", "south", "west")
    play.shut("east", *hosts, outwards=True)
    play.come("north/0", "south/0", "west/0", "east/0")
    assert set(play.refused()) == {"east/0"}


def test_two_that_do_not_reach_each_other_at_all_keep_the_first() -> None:
    """Either may be the cause, and the sentence names both."""
    play = Hosts(2)
    play.shut("north", "south")
    play.shut("south", "north")
    play.come("north/0", "south/0")
    assert set(play.refused()) == {"south/0"} and "north/0" in play.refused()["south/0"]


def test_where_every_host_is_closed_all_but_one_are_told_at_once() -> None:
    """Not one after the other, each after a dial of its own."""
    play = Hosts(8)
    hosts = [f"h{number}" for number in range(8)]
    play.mute = {f"{host}/0" for host in hosts}
    for host in hosts:
        play.shut(host, *hosts)
    play.come(*(f"{host}/0" for host in hosts))
    for each in list(play.state.reach.asked.values()):
        play.say(play.state.seats[each.sphere].path, Dialed(tried=[each.peer], gone=[each.peer]))
    play.all_live(DIAL_S + 0.1)
    assert len(play.refused()) == 7 and "h0/0" not in play.refused()


def test_a_tree_that_names_its_paths_waits_for_who_was_refused_and_says_why_it_did_not_begin() -> None:
    """As for one that does not come: it may be mended, and started anew."""
    play = Hosts(0)
    play.state = State(run_id="run", paths=("north/0", "south/0"), silence_s=1.0)
    play.shut("south", "north")
    play.come("north/0", "south/0")
    text = play.told(Refused)[2].text
    play.lose("south/0")
    play.all_live(10.0)
    assert play.state.ended is None and play.state.generation == (0, 0)
    play.now_s = COME_S
    play.settle()
    assert play.ended.status == "failed" and play.ended.reason == text and "[LW417]" in text


def test_the_first_host_alone_waits_for_nobody() -> None:
    play = Hosts(1)
    play.come("north/0")
    play.train("north/0")
    assert play.begun.generation == (1, 1) and not play.asked


# -------------------------------------------------------------------- whoever dies or says nothing


def test_one_that_dies_while_it_dials_is_replaced() -> None:
    """By another of its host, else by the next host in the tree."""
    play = of_two()
    play.come("north/1")
    later(play)
    play.train("north/0", "north/1", "south/0")
    play.mute = {"north/0"}
    play.come("west/0")
    assert ("north/0", "west/0") in play.asked and play.members == ["north/0", "north/1", "south/0"]
    play.lose("north/0")
    later(play)
    assert play.asked[-1] == ("north/1", "west/0")  # what is known of its host is known
    assert not play.state.reach.newcomers and not play.refused()


def test_nobodys_silence_keeps_a_newcomer_out() -> None:
    """Its word is waited for; then it goes in unproven, and losses.py sees to what comes of it."""
    play = of_two()
    play.mute = {"south/0"}
    play.come("west/0")
    play.all_live(MUTE * DIAL_S - 0.5)
    assert "west/0" not in play.members and not play.refused()
    play.all_live(1.0)
    assert "west/0" in play.members


def test_a_newcomer_that_comes_back_after_a_broken_connection_is_asked_again() -> None:
    """What it was asked, or said, may have been lost with that."""
    play = of_two()
    play.mute = {"west/0"}
    play.come("west/0")
    hello = play.state.seats[3].hello
    play.lose("west/0")
    play.mute = set()
    play.asked.clear()
    assert not play.knock(hello)
    play.answer()
    later(play)
    assert ("west/0", "north/0") in play.asked and "west/0" in play.members


def test_a_peer_that_is_not_heard_after_a_dial_may_have_been_stopped() -> None:
    """Then the dial says nothing of the newcomer; and who is stopped for longer than a dial takes is lost before."""
    play = of_two(silence_s=5.0)
    play.mute = {"west/0"}
    play.come("west/0")
    play.say("west/0", Dialed(tried=[1, 2], gone=[2]))
    play.keep_beating(8.0, "north/0")
    assert dial_s(5.0) < 8.0 and not play.refused()
    play.beat("south/0")
    assert set(play.refused()) == {"west/0"}
    assert all(dial_s(silence_s) > silence_s for silence_s in (0.2, 1.0, 5.0, 60.0))


def test_what_nobody_asked_for_counts_for_nothing() -> None:
    """Nobody can have another refused, or let in, by saying so."""
    play = of_two()
    play.mute = {"north/0", "south/0", "west/0"}
    play.come("west/0")
    before = play.state.reach
    play.say("north/0", Dialed(tried=[2], gone=[2]))
    play.say("west/0", Dialed(tried=[3], gone=[]))
    assert play.state.reach == before
    play.say("north/0", Dialed(tried=[3], gone=[]))
    play.say("north/0", Dialed(tried=[3], gone=[3]))
    assert [each.found for each in play.state.reach.asked.values() if (each.sphere, each.peer) == (1, 3)] == [True]


def test_hosts_that_come_together_cost_one_generation() -> None:
    """Their proofs come at moments of their own."""
    play = of_two()
    play.mute = {"east/0", "west/0"}
    play.come("east/0", "west/0")
    play.say("east/0", Dialed(tried=[1, 2], gone=[]))
    later(play, 0.1)
    play.say("west/0", Dialed(tried=[1, 2], gone=[]))
    later(play)
    assert (play.generation, len(play.members)) == ((1, 2), 4)


def test_the_work_is_that_of_the_newcomers() -> None:
    """Two neighbours each, whatever the size of the tree; and no sphere dials more than so many at once."""
    play = of_two()
    count = 2 * DIALS_MOST
    play.mute = {"north/0", "south/0"}
    play.come(*(f"west/{number // 10}/{number % 10}/0" for number in range(count)))
    assert len([each for each in play.asked if each[0] == "north/0"]) == DIALS_MOST
    assert len(play.asked) <= 4 * count
    play.all_live(MUTE * DIAL_S + 0.1)
    assert len([each for each in play.asked if each[0] == "north/0"]) == count  # who never answers keeps none back
    play.mute = set()
    for path in ("north/0", "south/0"):
        asked = [each for each in play.state.reach.asked.values() if play.state.seats[each.sphere].path == path]
        play.say(path, Dialed(tried=[each.peer for each in asked], gone=[]))
        play.answer()
    assert not play.state.reach.newcomers and len(play.asked) == 4 * count


def test_nobody_is_looked_for_where_no_newcomer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes in every sphere of the run; one that died before it was proven must not cost it for ever."""
    play = of_two()
    play.mute = {"west/0"}
    play.come("west/0")
    play.lose("west/0")
    assert play.state.reach.newcomers
    monkeypatch.setattr(newcomers, "_places", lambda state: pytest.fail("it was looked for"))
    later(play, 1.0)


# -------------------------------------------------------------------- control starts anew


def started_anew(play: Play, folder: Path) -> State:
    """What the next control knows."""
    with Ledger.open(folder / "ledger.db", "run") as ledger:
        for event in play.facts:
            if isinstance(event, DURABLE):
                ledger.record(event)
        return recalled(ledger, Settings(folder=folder, run_id="run", tree="*:2"), 0.0)


def test_what_is_proven_outlives_control_and_the_rest_is_asked_anew(tmp_path: Path) -> None:
    """The first of all without a fact of its own; a newcomer that was being dialed is one still."""
    play = of_two()
    play.mute = {"west/0"}
    play.come("west/0")
    state = started_anew(play, tmp_path)
    assert state.reach.places == play.state.reach.places and len(state.reach.places) == 2
    assert state.reach.newcomers == {3} and not state.reach.asked


def test_a_control_that_starts_anew_judges_nobody_before_the_run_is_there(tmp_path: Path) -> None:
    """A newcomer that is back before all who could dial it is not in for want of a witness."""
    play = of_two()
    play.mute = {"west/0"}
    play.come("west/0")
    hellos = [seat.hello for seat in play.state.seats.values()]
    play.state, play.sent, play.now_s = started_anew(play, tmp_path), [], 0.0
    play.asked.clear()
    play.knock(hellos[2])
    play.answer()
    assert not play.asked and play.state.reach.newcomers == {3}
    play.mute = set()
    for hello in hellos[:2]:
        play.knock(hello)
    for path in ("north/0", "south/0"):
        play.beat(path)
    play.answer()
    assert len(play.asked) == 4 and not play.state.reach.newcomers


def test_what_was_written_before_there_were_stacks_can_be_read() -> None:
    """Such a sphere is of none, and nobody is dialed for it."""
    hello = msgspec.convert({"run_id": "run", "path": "0", "pid": 7, "host": "here"}, Hello)
    state = apply(State(run_id="run", paths=("0",)), SphereCame(sphere=1, hello=hello, at_s=0.0))
    assert state.seats[1].place is None and state.reach == State(run_id="run", paths=()).reach


def test_who_is_refused_hears_why_once_and_nothing_else() -> None:
    """It may build its model still."""
    play = of_two()
    play.shut("west", "north", "south")
    play.come("west/0")
    play.beat("west/0", Phase.ADMITTED, generation=(0, 0))
    later(play, 2.0)
    said = [message for sphere, message in play.sent if sphere == 3 and isinstance(message, Refused | Expelled)]
    assert [type(message) for message in said] == [Refused]
    assert [type(event) for event in play.facts].count(SphereRefused) == 1
