"""Where the run goes on from the disk: all holders are gone, or somebody orders it back to a checkpoint."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from control.admit import Already, admit_order
from control.events import RestoreRefused
from control.protocol import Answer, Ask, Go, Memory, Position, Row, Stored, View
from control.report import alarm_of, answer_late
from tests.control.play import Play, called


@pytest.fixture
def play() -> Play:
    """Two spheres that have made twelve versions."""
    play = Play("0", "1").begin()
    for version in range(1, 13):
        play.row("0", version, digest=f"d{version}")
    return play


def of(version: int, lineage: int = 0, **fields: str) -> Stored:
    stored = Stored(name=f"step-{version}", lineage=lineage, version=version, digest=f"d{version}")
    return msgspec.structs.replace(stored, **fields)


def gone(play: Play) -> Play:
    """Every sphere was killed and has a successor, all called together."""
    for path in ("0", "1"):
        play.lose(path)
    play.wait(1.0)
    for path in ("0", "1"):
        former = play.state.seat_at(path)
        assert former is not None and not play.hello(path, former=former.hello.pid)
        play.prove(path)
    called(play)
    play.sent.clear()
    play.settle()
    assert play.members == ["0", "1"]
    return play


def empty(play: Play, path: str, *stored: Stored, has_v0: bool = True) -> None:
    play.ready(path, None, holds_state=False, has_v0=has_v0, stored=list(stored))


def late(play: Play, number: int) -> Answer | None:
    return answer_late(play.state, Ask(request="request", what="any"), number)


# ---------------------------------------------------------------- all holders are gone


def test_with_all_holders_gone_the_newest_checkpoint_is_loaded(play: Play) -> None:
    """By who can read it; the others fetch from them. What was made above it is made again."""
    gone(play)
    empty(play, "0", of(10), of(5))
    empty(play, "1", of(5))
    assert play.begun.position == Position(version=10) and play.begun.digest == "d10" and play.begun.known == 12
    one, two = (play.told(Go)[sphere] for sphere in (3, 4))
    assert one.how.value == "load" and one.load == of(10)
    assert two.how.value == "fetch" and two.donor == 3 and two.load is None


def test_one_that_turned_out_damaged_is_followed_by_an_older_one_and_last_by_v0(play: Play) -> None:
    """Whoever found it so says it is not there any more."""
    gone(play)
    for stored, start in (([of(10), of(5)], 10), ([of(5)], 5), ([], 0)):
        for path in ("0", "1"):
            empty(play, path, *stored)
        assert play.begun.position == Position(version=start)
        assert {go.load for go in play.told(Go).values()} == {stored[0] if stored else None}
        called(play)
        play.settle()


def test_a_checkpoint_that_is_not_of_this_line_is_not_loaded(play: Play) -> None:
    """Of another lineage, or with weights that are not what a tail agreed on."""
    gone(play)
    for path in ("0", "1"):
        empty(play, path, of(11, lineage=1), of(10, digest="other"), of(5))
    assert play.begun.position == Position(version=5)


def test_with_nothing_to_read_somebody_is_asked_to_put_it_back(play: Play) -> None:
    gone(play)
    for path in ("0", "1"):
        empty(play, path, has_v0=False)
    assert "checkpoint" in alarm_of(play.state, play.now_s) and alarm_of(play.state, play.now_s).endswith("[LW412]")


# ---------------------------------------------------------------- back by order


def restored(play: Play, *stored: Stored, version: int = 12) -> Play:
    """Ordered back, and all have answered the roll call."""
    assert not play.order("restore", text=stored[0].name if stored else "best")
    for path in ("0", "1"):
        play.ready(path, f"d{version}", version, stored=list(stored), in_force=0)
    return play


def test_a_restore_calls_all_at_once_and_asks_for_that_checkpoint(play: Play) -> None:
    """Who holds the newest state too: it is to be left."""
    play.order("restore", text="step-5")
    assert {view.restoring for view in play.told(View).values()} == {"step-5"}
    again = admit_order(play.state, Ask(request="b", what="restore", text="step-5"))
    assert isinstance(again, Already) and again.number == 1


def test_a_restore_opens_a_lineage_where_all_load_the_checkpoint(play: Play) -> None:
    """Nothing above it is known any more, and all orders so far are in force."""
    play.order("set_learning_rate", 0.5)
    restored(play, of(5))
    begun = play.begun
    assert begun.position == Position(lineage=1, version=5) and begun.digest == "d5" and begun.load == of(5)
    assert {how.value for how in begun.how.values()} == {"load"} and not begun.keep
    assert sum(map(len, begun.deal.values())) == 8, "sums of what is left count for nothing"
    assert (begun.in_force, begun.known, begun.in_force_at) == (2, -1, {})
    versions = play.state.versions
    assert (versions.version, versions.held, versions.agreed) == (5, 5, 5) and not versions.rivals
    assert all(order.version == 5 for order in play.state.orders)
    answer = late(play, 2)
    assert answer is not None and answer.ok and answer.version == 5


def test_rows_of_what_was_left_count_for_nothing(play: Play) -> None:
    """They would contradict what is made anew, or be taken for it."""
    restored(play, of(5))
    assert not play.row("0", 6, 99, lineage=0)
    assert play.row("0", 6, 1, lineage=1) and play.row("1", 6, 1, lineage=1)
    assert play.state.versions.conflict is None and play.state.versions.version == 6


def test_who_still_stands_in_the_old_lineage_holds_nothing_any_more(play: Play) -> None:
    """The load broke off before it was through: the next roll call loads again, and does not go back."""
    restored(play, of(5))
    called(play)
    play.settle()
    for path in ("0", "1"):
        play.ready(path, "d12", 12)
    assert play.begun.generation != play.generation, "all are asked what else they can read"


def test_a_checkpoint_that_nobody_can_read_is_refused_and_the_run_goes_on(play: Play) -> None:
    """From where it stood: nothing was left for it."""
    restored(play)
    assert [type(event) for event in play.facts].count(RestoreRefused) == 1
    assert play.begun.generation == play.generation and play.begun.position == Position(version=12)
    answer = late(play, 1)
    assert answer is not None and not answer.ok and "'best'" in answer.text and answer.text.endswith("[LW606]")
    play.sent.clear()
    assert not play.order("restore", text="step-5"), "another may be ordered"
    assert {view.restoring for view in play.told(View).values()} == {"step-5"}


def test_the_next_restore_calls_all_again(play: Play) -> None:
    """The generation that runs was called for a restore too, and that one is over."""
    restored(play, of(5))
    play.sent.clear()
    assert not play.order("restore")
    assert {view.restoring for view in play.told(View).values()} == {""}
    for path in ("0", "1"):
        play.ready(path, "d5", stored=[of(2)], position=Position(lineage=1, version=5))
    assert play.begun.position == Position(lineage=2, version=2)


def test_a_restore_is_not_refused_for_what_another_was_called_for(play: Play) -> None:
    """It came while nothing could begin after the former one."""
    play.order("restore", text="gone")
    for path in ("0", "1"):
        play.ready(path, None, holds_state=False)
    assert [type(event) for event in play.facts].count(RestoreRefused) == 1
    play.order("restore", text="step-5")
    assert late(play, 2) is None


def test_one_that_one_sphere_can_read_is_fetched_by_the_others(play: Play) -> None:
    play.order("restore", text="step-5")
    play.ready("0", "d12", 12, stored=[of(5)])
    play.ready("1", "d12", 12)
    assert {sphere: how.value for sphere, how in play.begun.how.items()} == {1: "load", 2: "fetch"}
    assert play.begun.donors == {2: 1}


def test_before_the_run_has_begun_there_is_nothing_to_go_back_to() -> None:
    assert "not begun" in Play("0", "1").gather().order("restore")


def test_after_a_restore_only_what_led_there_is_loaded(play: Play) -> None:
    """With all holders gone: of the former lineage up to where it was left, and of the own."""
    restored(play, of(5))
    for version in (6, 7):
        for path in ("0", "1"):
            play.row(path, version, lineage=1, digest=f"e{version}")
    gone(play)
    for path in ("0", "1"):
        empty(play, path, of(10), of(5), of(2))
    assert play.begun.position == Position(lineage=1, version=5) and play.begun.load == of(5)
    called(play)
    play.settle()
    for path in ("0", "1"):
        empty(play, path, of(10), of(6, lineage=1, digest="e6"), of(5))
    assert play.begun.position == Position(lineage=1, version=6)


def test_a_control_that_lost_its_ledger_learns_the_lineage_from_the_spheres(play: Play) -> None:
    """Else it would take all that they report for what was left."""
    restored(play, of(5))
    seat = play.state.seats[1]
    members = list(play.state.members)
    memory = Memory(generation=play.generation, members=members, position=play.begun.position)
    other = Play("0", "1")
    other.state = replace(other.state, remembers=True, adopting_s=5.0)
    assert not other.knock(msgspec.structs.replace(seat.hello, sphere=1, memory=memory, incarnation=1))
    other.prove("0")
    assert other.state.lineage == 1
    assert other.say("0", Row(generation=play.generation, version=6, lineage=1, check=1))
