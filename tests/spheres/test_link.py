"""The line to control, against a small ROUTER."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zmq

from control.protocol import (
    Beat,
    End,
    Failed,
    Go,
    How,
    Orders,
    Phase,
    Position,
    Ready,
    Refused,
    StoreGet,
    StoreReply,
    StoreSet,
    Tick,
    ToControl,
    ToSphere,
    View,
    Wanted,
)
from lightwatch.errors import RunEnded, StateError
from spheres.link import AdmissionRefused, ControlSilent, Link, LinkBroken
from tests.spheres.conftest import HELLO
from tests.spheres.fake_control import FakeControl, welcome

GENERATION = (1, 1)


def silent(message: ToControl) -> list[ToSphere]:
    return []


def failing(text: str) -> Failed:
    return Failed(text=text)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `work` beside the test; its result, or what it raised, is in the list when the thread has ended."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_hello_is_said_first_and_welcome_gives_the_id(control: FakeControl) -> None:
    """Whatever was queued before the connection waits behind Hello."""
    link = Link(control.address, HELLO, 1.0)
    link.send(failing("queued before"))
    assert link.open(5.0) == 7
    assert link.standing.phase is Phase.ADMITTED
    assert link.heard.sphere == 7 and "sphere 7" in repr(link)
    control.until(lambda: len(control.received) >= 2)
    link.close()
    kinds = [message for message in control.received if not isinstance(message, Beat)]
    assert kinds == [HELLO, failing("queued before")]


def test_a_refusal_is_raised_with_controls_sentence() -> None:
    """Who may not take part learns why."""
    with FakeControl(lambda message: [Refused(text="a/0 is taken")]) as control:
        link = Link(control.address, HELLO, 1.0)
        with pytest.raises(AdmissionRefused, match="a/0 is taken"):
            link.open(5.0)
        link.close()


def test_a_silent_control_is_given_up_in_time() -> None:
    """Both kinds of silence: nobody listens, or somebody listens and says nothing; the sentence tells them apart."""
    with FakeControl(silent) as control:
        address = control.address
        link = Link(address, HELLO, 1.0)
        control.until(lambda: bool(control.received))
        start = time.monotonic()
        with pytest.raises(ControlSilent, match=r"did not answer to Hello within 0\.2 s \(connected"):
            link.open(0.2)
        assert 0.2 <= time.monotonic() - start < 2
        link.close()
    link = Link(address, HELLO, 1.0)
    with pytest.raises(ControlSilent, match="no connection"):
        link.open(0.2)
    link.close()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_control_is_found_on_ipv6() -> None:
    """Loopback has two addresses, and control may bind either."""
    with FakeControl(host="[::1]") as control:
        link = Link(control.address, HELLO, 1.0)
        assert link.open(5.0) == 7
        link.close()


@pytest.mark.parametrize("address", ["", "nowhere", "tcp://", "tp://127.0.0.1:1", "tcp://h:65536", "tcp://h:1 "])
def test_a_malformed_address_is_refused_at_once(address: str) -> None:
    """And leaves nothing behind, as the fixture checks."""
    with pytest.raises(ControlSilent, match="is no address of a control process"):
        Link(address, HELLO, 1.0)


def test_messages_arrive_in_the_order_of_sending(control: FakeControl, link: Link) -> None:
    """FIFO, from any thread: each thread's own messages keep their order."""

    def send_all(who: str) -> None:
        for number in range(200):
            link.send(failing(f"{who} {number}"))

    threads = [threading.Thread(target=send_all, args=(who,)) for who in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    control.until(lambda: sum(isinstance(message, Failed) for message in control.received) == 400)
    texts = [message.text for message in control.of(Failed)]
    for who in ("x", "y"):
        assert [text for text in texts if text.startswith(who)] == [f"{who} {n}" for n in range(200)]


def test_orders_are_heard_gapless_and_stale_words_are_dropped(control: FakeControl, link: Link) -> None:
    """A gap waits for the repetition; an older generation changes nothing."""
    control.say(Orders(incarnation=1, orders=[Wanted(number=2, paused=True)]))
    control.say(Orders(incarnation=1, orders=[Wanted(number=1)]), View(generation=(1, 2), members=[]))
    control.say(View(generation=(1, 1), members=[]), Tick(incarnation=0))
    control.say(Orders(incarnation=1, orders=[Wanted(number=1), Wanted(number=2, stopped=True)]))
    heard = link.wait(lambda heard: heard if heard.seen == 2 else None, 5.0)
    assert heard.orders == (Wanted(number=1), Wanted(number=2, stopped=True))
    assert (heard.generation, heard.ticks) == ((1, 2), 0)


def test_a_go_is_waited_for(control: FakeControl, link: Link) -> None:
    """`wait` wakes when the picked thing is there, long before its time-out."""
    go = Go(generation=GENERATION, position=Position(), how=How.HERE, keep=False, deal={7: [0, 1]})
    thread, outcome = in_thread(lambda: link.wait(lambda heard: heard.go, 20.0))
    control.say(View(generation=GENERATION, members=[]), go)
    thread.join(5.0)
    assert outcome == [go]


def test_the_end_wakes_whoever_waits_and_can_be_waited_for_itself(control: FakeControl, link: Link) -> None:
    """RunEnded carries control's reason; who waits for the End gets it instead."""
    thread, outcome = in_thread(lambda: link.wait(lambda heard: heard.go, 20.0))
    control.say(End(status="failed", reason="sphere b/0 died"))
    thread.join(5.0)
    error = outcome[0]
    assert isinstance(error, RunEnded) and (error.status, error.reason) == ("failed", "sphere b/0 died")
    assert link.wait(lambda heard: heard.end, 1.0).status == "failed"


def test_beats_tell_what_the_sphere_stands_for(control: FakeControl, link: Link) -> None:
    """All fields, the newest order; numbers rise by one."""
    control.say(Orders(incarnation=1, orders=[Wanted(number=1)]))
    for phase in (Phase.FROZEN, Phase.BUILDING):
        link.stand(phase=phase)
    position = Position(version=3)
    link.stand(phase=Phase.COMPUTING, position=position, generation=GENERATION, units_done=1, units_dealt=4, in_force=1)
    control.until(lambda: any(isinstance(m, Beat) and m.seen == 1 and m.units_done for m in control.received))
    beats = control.of(Beat)
    last = beats[-1]
    assert (last.phase, last.position, last.generation) == (Phase.COMPUTING, position, GENERATION)
    assert (last.units_done, last.units_dealt, last.in_force, last.failed_in) == (1, 4, 1, (0, 0))
    assert last.rss_bytes > 1 << 20 and last.cpu_s > 0
    assert [beat.number for beat in beats] == list(range(1, len(beats) + 1))


def test_a_failure_is_in_every_beat_until_it_is_taken_back(control: FakeControl, link: Link) -> None:
    """Facts are levels: one lost beat loses nothing."""
    link.stand(failed_in=(1, 4))
    control.until(lambda: sum(isinstance(m, Beat) and m.failed_in == (1, 4) for m in control.received) >= 3)
    beats = control.of(Beat)
    first = next(index for index, beat in enumerate(beats) if beat.failed_in == (1, 4))
    assert all(beat.failed_in == (1, 4) for beat in beats[first:])


def test_a_beat_never_overtakes_a_message_sent_before(control: FakeControl, link: Link) -> None:
    """A row is sent, then the new position is stood for: control sees them in this order."""
    for version in range(1, 101):
        link.send(Ready(generation=GENERATION, position=Position(version=version), holds_state=True))
        link.stand(position=Position(version=version), failed_in=(1, version))
    control.until(lambda: any(isinstance(m, Beat) and m.position.version == 100 for m in control.received))
    told = 0
    for message in control.received:
        if isinstance(message, Ready):
            told = message.position.version
        if isinstance(message, Beat):
            assert message.position.version <= told


def test_an_illegal_phase_is_refused_and_changes_nothing(control: FakeControl, link: Link) -> None:
    """The table of state.py holds for what beats say, too."""
    with pytest.raises(StateError, match="admitted can't become reducing"):
        link.stand(phase=Phase.REDUCING, units_done=5)
    assert (link.standing.phase, link.standing.units_done) == (Phase.ADMITTED, 0)


def test_a_newer_view_and_the_end_interrupt(control: FakeControl, link: Link) -> None:
    """The callback comes from the link's thread, for what is newer than the generation it was set in."""
    control.say(View(generation=GENERATION, members=[]))
    link.wait(lambda heard: heard.view, 5.0)
    calls: list[str] = []
    link.on_interrupt(lambda: calls.append(threading.current_thread().name))
    control.say(View(generation=GENERATION, members=[], orders=[Wanted(number=1)]))
    link.wait(lambda heard: heard.seen or None, 5.0)
    assert calls == []
    control.say(View(generation=(1, 2), members=[]), Tick(incarnation=1))
    link.wait(lambda heard: heard.ticks or None, 5.0)
    control.say(End(status="completed"))
    link.wait(lambda heard: heard.end, 5.0)
    link.close()
    assert calls == ["link", "link"]


def test_an_interrupt_that_was_missed_comes_at_once(control: FakeControl, link: Link) -> None:
    """A View between the roll call and the setting of the callback is not lost."""
    control.say(View(generation=(1, 5), members=[]))
    link.wait(lambda heard: heard.view, 5.0)
    calls: list[str] = []
    link.on_interrupt(lambda: calls.append("late"), after=(1, 4))
    assert calls == ["late"]
    link.on_interrupt(None)
    control.say(View(generation=(1, 6), members=[]))
    link.wait(lambda heard: heard.generation == (1, 6) or None, 5.0)
    assert calls == ["late"]


def test_requests_get_their_own_replies_in_any_order() -> None:
    """Two wait at once; the later is answered first."""
    asked: list[StoreGet] = []

    def answers(message: ToControl) -> list[ToSphere]:
        if isinstance(message, StoreGet):
            asked.append(message)
            if len(asked) == 2:
                return [StoreReply(request=get.request, values=[get.keys[0].encode()]) for get in reversed(asked)]
        return welcome(message)

    with FakeControl(answers) as control:
        link = Link(control.address, HELLO, 1.0)
        link.open(5.0)
        gets = [StoreGet(generation=GENERATION, request=0, keys=[key]) for key in ("x", "y")]
        waiting = [in_thread(partial(link.request, get, 10.0)) for get in gets]
        for (thread, outcome), get in zip(waiting, gets, strict=True):
            thread.join(5.0)
            assert isinstance(outcome[0], StoreReply) and outcome[0].values == [get.keys[0].encode()]
        link.close()


def test_a_message_does_not_wait_for_the_next_beat() -> None:
    """Beats are 0.5 s apart here; thirty round trips take far less than thirty beats."""

    def answers(message: ToControl) -> list[ToSphere]:
        return [StoreReply(request=message.request)] if isinstance(message, StoreGet) else welcome(message)

    with FakeControl(answers) as control:
        link = Link(control.address, HELLO, 5.0)
        link.open(5.0)
        start = time.monotonic()
        for _ in range(30):
            link.request(StoreGet(generation=GENERATION, request=0, keys=["x"]), 5.0)
        assert time.monotonic() - start < 5
        link.close()


def test_a_request_ends_with_its_generation_and_with_its_time(control: FakeControl, link: Link) -> None:
    """Control drops an old generation's keys and does not answer: the asker must not wait for ever."""
    get = StoreGet(generation=GENERATION, request=0, keys=["x"])
    with pytest.raises(ControlSilent, match=r"to StoreSet within 0\.1 s"):
        link.request(StoreSet(generation=GENERATION, request=0, key="x", value=b""), 0.1)
    thread, outcome = in_thread(lambda: link.request(get, 20.0))
    control.until(lambda: any(isinstance(message, StoreGet) for message in control.received))
    control.say(View(generation=(1, 2), members=[]))
    thread.join(5.0)
    assert isinstance(outcome[0], RunEnded) and outcome[0].status == "superseded"


def test_a_frame_that_is_no_message_breaks_the_link_aloud(control: FakeControl, link: Link) -> None:
    """Whoever uses the link next is told, waiting ones at once."""
    thread, outcome = in_thread(lambda: link.wait(lambda heard: heard.go, 20.0))
    control.say_bytes(b"\xc1 no message")
    thread.join(5.0)
    assert isinstance(outcome[0], LinkBroken) and "WireError" in str(outcome[0])
    with pytest.raises(LinkBroken):
        link.send(failing("x"))


def test_close_sends_what_is_queued_and_ends_everything(control: FakeControl) -> None:
    """The last words arrive; afterwards the link says that it is closed; twice is once."""
    link = Link(control.address, HELLO, 1.0)
    link.open(5.0)
    for number in range(100):
        link.send(failing(str(number)))
    link.close()
    link.close()
    control.until(lambda: sum(isinstance(message, Failed) for message in control.received) == 100)
    with pytest.raises(LinkBroken, match="is closed"):
        link.send(failing("late"))
    assert all(thread.name != "link" for thread in threading.enumerate())


def test_close_gives_up_on_a_dead_control_within_a_second_or_so() -> None:
    """Last words wait for a connection a second at most."""
    with FakeControl() as control:
        link = Link(control.address, HELLO, 1.0)
        link.open(5.0)
    link.send(failing("nobody hears this"))
    start = time.monotonic()
    link.close()
    assert time.monotonic() - start < 3
    assert all(thread.name != "link" for thread in threading.enumerate())


def test_the_spheres_own_socket_asks_who_is_there(control: FakeControl, link: Link) -> None:
    """ZMTP heartbeats: what survives a held GIL, and what control counts on to know that a sphere is there."""
    sock = link._line.socket
    assert sock.getsockopt(zmq.HEARTBEAT_IVL) == 200
    assert sock.getsockopt(zmq.HEARTBEAT_TIMEOUT) == 1000
