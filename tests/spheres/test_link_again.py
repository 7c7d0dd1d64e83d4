"""The line to control when one of the two was away, or must go."""

from __future__ import annotations

import threading

import msgspec

from control.protocol import (
    Beat,
    End,
    Expelled,
    Failed,
    Hello,
    Member,
    Memory,
    Orders,
    Position,
    Row,
    ToControl,
    ToSphere,
    View,
    Wanted,
    Welcome,
)
from spheres.link import Link
from tests.spheres.conftest import HELLO
from tests.spheres.fake_control import FakeControl

GENERATION = (1, 1)


def failing(text: str) -> Failed:
    return Failed(text=text)


def test_after_a_broken_connection_the_sphere_says_who_it_is() -> None:
    """Hello again, now with its id; what was sent in between arrives too (before it, if sent before we noticed)."""
    first = FakeControl()
    link = Link(first.address, HELLO, 1.0)
    link.open(5.0)
    first.close()
    with FakeControl(port=first.port) as second:
        link.send(failing("sent meanwhile"))
        second.until(lambda: any(isinstance(message, Failed) for message in second.received))
        hellos = [message for message in second.received if isinstance(message, Hello)]
        assert hellos and all((hello.sphere, hello.path) == (7, "a/0") for hello in hellos)
        link.close()


def test_a_control_that_comes_back_is_told_who_is_here_and_the_rows_it_lacks() -> None:
    """Hello with the highest incarnation and the memory; then, once Welcome has told what is held, the other rows."""
    first = FakeControl()
    link = Link(first.address, HELLO, 1.0)
    link.open(5.0)
    memory = Memory(generation=GENERATION, members=[Member(sphere=7, path="a/0")], position=Position(version=1))
    first.say(Orders(incarnation=1, orders=[Wanted(number=1, paces={7: 0.5})]))
    link.wait(lambda heard: heard.seen or None, 5.0)
    link.remember(memory)
    for version in range(1, 6):
        link.send(Row(generation=GENERATION, version=version))
    first.until(lambda: len([message for message in first.received if isinstance(message, Row)]) == 5)
    assert first.of(Hello) == [HELLO]
    first.close()

    def answers(message: ToControl) -> list[ToSphere]:
        return [Welcome(sphere=7, incarnation=2, rows_held=3)] if isinstance(message, Hello) else []

    with FakeControl(answers, port=first.port) as second:
        second.until(lambda: any(isinstance(message, Row) and message.version == 5 for message in second.received))
        hello = second.of(Hello)[0]
        assert (hello.sphere, hello.incarnation) == (7, 1)
        assert hello.memory == msgspec.structs.replace(memory, orders=[Wanted(number=1)])
        assert [row.version for row in second.of(Row)] == [4, 5]
        second.until(lambda: any(isinstance(m, Beat) and m.incarnation == 2 for m in second.received))
        link.close()


def test_a_predecessor_of_control_is_not_obeyed_although_it_answers() -> None:
    """A sphere that has heard of incarnation 3 takes no welcome of 2, and after Hello it says nothing more.

    Before Hello there may come what was sent into the first connection's end, before it was seen to be broken.
    """
    first = FakeControl(lambda message: [Welcome(sphere=7, incarnation=3)] if isinstance(message, Hello) else [])
    link = Link(first.address, HELLO, 1.0)
    link.open(5.0)
    first.close()

    def answers(message: ToControl) -> list[ToSphere]:
        if not isinstance(message, Hello):
            return []
        return [Welcome(sphere=8, incarnation=2), View(generation=(2, 5), members=[]), End(status="completed")]

    with FakeControl(answers, port=first.port) as second:
        second.until(lambda: any(isinstance(message, Hello) for message in second.received))
    with FakeControl(lambda message: [Welcome(sphere=7, incarnation=4)], port=first.port):
        link.wait(lambda heard: heard.incarnation == 4 or None, 10.0)  # whatever the second said was read before
        assert (link.heard.sphere, link.heard.view, link.heard.end) == (7, None, None)
    kinds = [type(message) for message in second.received]
    assert set(kinds[kinds.index(Hello) :]) == {Hello} and set(kinds) <= {Hello, Beat}
    assert {message.incarnation for message in second.of(Hello)} == {3}
    link.close()


def test_who_is_thrown_out_leaves_from_the_links_own_thread(control: FakeControl) -> None:
    """The main thread may be stuck: it is not asked. The code asks for a successor."""
    left: list[tuple[int, str]] = []
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append((code, threading.current_thread().name))
        gone.set()

    link = Link(control.address, HELLO, 1.0, leave=leave)
    link.open(5.0)
    control.say(Expelled(text="silent"), Expelled(text="silent"))
    assert gone.wait(5.0)
    control.say(Orders(incarnation=1, orders=[Wanted(number=1)]))
    link.wait(lambda heard: heard.seen or None, 5.0)
    link.close()
    assert left == [(75, "link")]


def test_the_pulse_goes_on_while_control_is_away() -> None:
    """It tells the supervisor that this process lives, which control's death changes nothing about."""
    beats = threading.Semaphore(0)
    link = Link("tcp://127.0.0.1:9", HELLO, 0.2, pulse=beats.release)
    assert all(beats.acquire(timeout=5.0) for _ in range(5))
    link.close()


def test_what_a_sphere_accuses_is_in_its_beats(control: FakeControl, link: Link) -> None:
    """Whom it holds for sick, and whom it could not reach."""
    link.stand(failed_in=(1, 4), accuses=9, unreachable=[3, 5])
    control.until(lambda: any(isinstance(m, Beat) and m.accuses == 9 for m in control.received))
    beat = next(beat for beat in control.of(Beat) if beat.accuses)
    assert (beat.failed_in, beat.unreachable) == ((1, 4), [3, 5])
