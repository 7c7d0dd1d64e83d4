"""A seat is the machine's that took it: what another one's key can't do, whatever its messages say."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from control.admit import Fenced, Refusal, admit_hello
from control.events import SphereBarred, SphereCame, SphereExpelled, SphereReturned
from control.membership import of_revoked, speaks_for_itself
from control.plan import word_of
from control.protocol import Hello, Member, Memory, Position, View
from tests.control.play import Play

HELLO = Hello(run_id="run", path="0", pid=7, host="here", port=9, larder_key="L", nonce="n")


def keyed() -> Play:
    """A run with keys; machine A has taken path 0."""
    play = Play("0", "1")
    play.state = replace(play.state, secret=b"s")
    assert play.knock(HELLO, "A") == ""
    return play


def again(**fields: object) -> Hello:
    return Hello(**{**{name: getattr(HELLO, name) for name in HELLO.__struct_fields__}, **fields})


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize(
    "hello",
    [HELLO, again(sphere=1), again(pid=8, former=7), again(pid=8), again(pid=8, host="there")],
    ids=["itself", "its number", "its successor", "a newcomer", "a newcomer elsewhere"],
)
def test_another_machine_can_not_take_a_seat_whatever_it_says(hello: Hello, connected: bool) -> None:
    """Neither while the connection stands, nor after it broke: it may be a cable that was cut."""
    play = keyed()
    if not connected:
        play.lose("0")
    why = play.knock(hello, "B")
    assert "the path is taken" in why or "another key" in why
    assert play.state.seats[1].key == "A" and play.came() == ["0"]


def test_its_own_machine_comes_back_and_follows_as_ever() -> None:
    """The same process by its number, and a successor by its supervisor's word."""
    play = keyed()
    assert isinstance(admit_hello(play.state, again(sphere=1), 0.0, "A"), SphereReturned)
    assert isinstance(admit_hello(play.state, again(pid=8, former=7), 0.0, "A"), SphereCame)


def test_who_was_thrown_out_or_is_dead_has_no_seat_any_more() -> None:
    """Then the path is anybody's who may take part."""
    for release in ("expelled", "dead"):
        play = keyed()
        play.lose("0")
        seat = play.state.seats[1]
        seat = replace(seat, expelled="so [LW407]") if release == "expelled" else replace(seat, dead=True)
        play.state = replace(play.state, seats=play.state.seats.having({1: seat}))
        assert play.knock(again(pid=8), "B") == ""
        assert play.state.seats[2].key == "B"


def test_without_a_key_nobody_sits_down_in_a_run_with_keys() -> None:
    """The door lets none in; should one ever come through, it is refused here."""
    event = admit_hello(keyed().state, again(path="1"), 0.0)
    assert isinstance(event, Refusal) and "has shown none" in event.text


def test_a_larder_in_the_clear_is_refused_in_a_run_with_keys() -> None:
    """It would hand out the state to whoever listens."""
    event = admit_hello(keyed().state, again(path="1", larder_key=""), 0.0, "A")
    assert isinstance(event, Refusal) and "in the clear" in event.text


def test_a_run_that_had_keys_once_and_has_none_now_takes_everybody() -> None:
    """And the other way round: what was written of former spheres binds nobody to a key that is not asked for."""
    play = Play("0")
    assert play.knock(HELLO, "A") == ""
    play.lose("0")
    assert play.knock(again(pid=8)) == ""


def test_only_who_knows_its_nonce_speaks_for_a_sphere_over_another_connection() -> None:
    """An empty one is nobody's."""
    seat = keyed().state.seats[1]
    assert speaks_for_itself(seat, HELLO)
    assert not speaks_for_itself(seat, again(nonce="m"))
    assert not speaks_for_itself(replace(seat, hello=again(nonce="")), again(nonce=""))


def test_the_spheres_of_a_revoked_machine_are_thrown_out_once() -> None:
    """Not those of others, none where there are no keys, and none once the run is over."""
    play = keyed()
    assert play.knock(again(path="1"), "B") == ""
    assert of_revoked(play.state, None, 0.0) == of_revoked(play.state, frozenset("AB"), 0.0) == []
    (event,) = of_revoked(play.state, frozenset("A"), 3.0)
    assert (event.sphere, event.at_s) == (2, 3.0) and "revoked" in event.text
    play.happen(event)
    assert isinstance(event, SphereExpelled) and of_revoked(play.state, frozenset("A"), 4.0) == []


def test_a_machine_that_never_took_part_is_not_believed_that_control_was_superseded() -> None:
    """Else whoever may come could end it. One that took part is; and before anybody came, everybody."""
    play = keyed()
    later = again(path="1", pid=7, incarnation=9)
    assert isinstance(admit_hello(play.state, later, 0.0, "C"), SphereCame)
    assert isinstance(admit_hello(play.state, later, 0.0, "A"), Fenced)
    assert isinstance(admit_hello(Play("0", "1").state, again(incarnation=9), 0.0, "C"), Fenced)


def test_who_is_only_remembered_is_known_by_its_larder() -> None:
    """A control that lost its ledger gives a number back to the process that had it, not to one that names it."""
    play = Play("0", "1")
    play.state = replace(play.state, remembers=True, adopting_s=1.0, secret=b"s")
    members = [Member(sphere=4, path="0", key="L"), Member(sphere=5, path="1", key="M")]
    memory = Memory(generation=(1, 1), members=members, position=Position())
    assert play.knock(again(path="1", sphere=5, larder_key="M", incarnation=1, memory=memory), "B") == ""
    assert "was given up" in play.knock(again(sphere=4, larder_key="other"), "B")
    assert play.knock(again(sphere=4, larder_key="L"), "A") == ""


def test_the_word_of_a_generation_is_told_to_its_members_alone() -> None:
    """It is another for each generation and each run, the same from a control that starts anew; none without keys. Who
    is left out hears that it is, and no word."""
    words = {word_of(secret, (1, number)) for secret in (b"s", b"t") for number in range(5)}
    assert len(words) == 10 and word_of(b"", (1, 1)) == ""
    play = Play("0", "1")
    play.state = replace(play.state, secret=b"s")
    for path in ("0", "1"):
        play.knock(again(path=path, pid=1 + int(path)), "A")
        play.prove(path)
    assert {view.word for view in play.told(View).values()} == {word_of(b"s", play.generation)}
    for path in ("0", "1"):
        play.ready(path)
    for path in ("0", "1"):
        play.beat(path)
    play.sent.clear()
    play.happen(SphereBarred(sphere=2, text="", until_s=play.now_s + 9.0, at_s=play.now_s))
    play.settle()
    told = {sphere: view.word for sphere, view in play.told(View).items()}
    assert told == {1: word_of(b"s", play.generation), 2: ""}
