"""torch's rendezvous over the line to control, with control's own store behind a small ROUTER."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from torch._C._distributed_c10d import PrefixStore

from control.protocol import Hello, Member, StoreGet, ToControl, ToSphere, View, Welcome
from control.rendezvous import Rendezvous
from lightwatch.errors import RunEnded
from spheres.groups import Groups
from spheres.link import ControlSilent, Link
from spheres.reduce import sum_over_tree
from spheres.store import LinkStore, StoreRefused
from tests.spheres.fake_control import FakeControl

GENERATION = (1, 1)


@pytest.fixture
def control() -> Iterator[FakeControl]:
    rendezvous = Rendezvous()
    rendezvous.begin(GENERATION)

    def answers(message: ToControl) -> list[ToSphere]:
        if isinstance(message, Hello):
            return [Welcome(sphere=7, incarnation=1)]
        try:
            return [reply for _, reply in rendezvous.handle(7, message)]  # type: ignore[arg-type]
        except AttributeError:
            return []

    with FakeControl(answers) as control:
        yield control


@pytest.fixture
def link(control: FakeControl) -> Iterator[Link]:
    link = Link(control.address, Hello(run_id="r", path="0", pid=1, host="h"), 1.0)
    link.open(5.0)
    yield link
    link.close()


@pytest.fixture
def store(link: Link) -> LinkStore:
    return LinkStore(link, "run", GENERATION, 5.0)


def test_what_is_set_is_got_back_byte_by_byte(store: LinkStore) -> None:
    """All bytes, text as UTF-8, the newest value, the empty one."""
    for value in (bytes(range(256)), b"", "né"):
        store.set("key", value)
        assert store.get("key") == (value.encode() if isinstance(value, str) else value)


def test_the_other_calls_of_a_store(store: LinkStore) -> None:
    """check, add, delete_key, wait, time-outs; num_keys says that it can't."""
    assert not store.check(["a"])
    assert (store.add("a", 3), store.add("a", -5)) == (3, -2)
    assert store.check(["a"]) and not store.check(["a", "b"])
    store.wait(["a"], timedelta(seconds=1))
    assert store.delete_key("a") and not store.delete_key("a")
    store.set_timeout(timedelta(seconds=3))
    assert store.timeout == timedelta(seconds=3)
    with pytest.raises(NotImplementedError):
        store.num_keys()


def test_a_key_that_does_not_come_is_given_up_in_time(store: LinkStore) -> None:
    """By the call's own time-out, or the store's."""
    with pytest.raises(ControlSilent, match=r"within 0\.1 s"):
        store.wait(["never"], timedelta(seconds=0.1))
    store.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(ControlSilent, match=r"within 0\.2 s"):
        store.get("never")


def test_a_waiting_get_wakes_when_the_key_comes(control: FakeControl, link: Link, store: LinkStore) -> None:
    """A second store over the same line sets it."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(store.get("late")))
    thread.start()
    control.until(lambda: any(isinstance(message, StoreGet) for message in control.received))
    LinkStore(link, "run", GENERATION, 5.0).set("late", b"here")
    thread.join(5.0)
    assert got == [b"here"]


def test_runs_do_not_share_keys(link: Link, store: LinkStore) -> None:
    """The run's id is in every name."""
    store.set("key", b"mine")
    assert not LinkStore(link, "other", GENERATION, 5.0).check(["key"])


def test_a_refused_key_is_told(store: LinkStore) -> None:
    """A key over control's limit, and a number that is none."""
    with pytest.raises(StoreRefused, match="refused StoreSet in generation"):
        store.set("k" * 2000, b"")
    store.set("word", b"no number")
    with pytest.raises(StoreRefused, match="refused StoreAdd"):
        store.add("word", 1)


def test_waiting_ends_with_the_generation(control: FakeControl, store: LinkStore) -> None:
    """Control has dropped the keys and will not answer: the newer View is the answer."""
    failed: list[Exception] = []

    def wait() -> None:
        try:
            store.get("never")
        except RunEnded as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    control.until(lambda: any(isinstance(message, StoreGet) for message in control.received))
    control.say(View(generation=(1, 2), members=[]))
    thread.join(3.0)
    assert "superseded" in str(failed[0])


def test_gloo_groups_meet_through_it(link: Link) -> None:
    """Three spheres of an unequal tree over one line: torch's own PrefixStore on top, real groups, a right sum."""
    members = [Member(sphere=index, path=path) for index, path in [(1, "a/0"), (2, "a/1"), (3, "b/0")]]
    sums: dict[int, int] = {}
    all_ended = threading.Barrier(3)

    def run(sphere: int) -> None:
        store = LinkStore(link, "run", GENERATION, 10.0)
        groups = Groups.build(PrefixStore("any", store), members, sphere, GENERATION, 10.0)
        tensor = torch.tensor([10**sphere])
        sum_over_tree(groups, tensor)
        sums[sphere] = int(tensor)
        all_ended.wait(10.0)
        groups.close()

    threads = [threading.Thread(target=run, args=(member.sphere,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == {1: 1110, 2: 1110, 3: 1110}
