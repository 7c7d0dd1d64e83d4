"""Who is in a group with whom, and how groups end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._distributed_c10d import HashStore

from control.protocol import Member
from spheres.graves import graves
from spheres.groups import WATCH_S, Groups, PeerLost, Started
from spheres.levels import LevelPlan, plan_levels
from spheres.reduce import sum_over_tree
from tests.spheres.spheres_as_threads import GENERATION, SHORT_S, TREES, members_of, on_spheres, results


def all_plans(members: list[Member]) -> dict[int, list[LevelPlan]]:
    return {member.sphere: plan_levels(members, member.sphere) for member in members}


def added_up(members: list[Member]) -> dict[int, Counter[int]]:
    """What each sphere would hold after a sum over the tree, as the spheres in it: the plans walked by hand."""
    plans = all_plans(members)
    holds = {member.sphere: Counter([member.sphere]) for member in members}
    groups = {plan.name: plan for mine in plans.values() for plan in mine}
    for plan in sorted(groups.values(), key=lambda plan: -plan.level):
        total = sum((holds[peer.sphere] for peer in plan.members), Counter[int]())
        for peer in plan.members:
            holds[peer.sphere] = Counter(total) if plan.top or peer is plan.members[0] else Counter()
    for plan in sorted(groups.values(), key=lambda plan: plan.level):
        for peer in plan.members:
            holds[peer.sphere] = Counter(holds[plan.members[0].sphere])
    return holds


def is_a_tree(paths: list[str]) -> bool:
    return not any(path != other and other.startswith(path + "/") for path in paths for other in paths)


paths = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=12, unique=True
).filter(is_a_tree)


@given(paths)
@settings(max_examples=100, deadline=None)
def test_any_set_of_paths_makes_groups_that_span_the_tree_once(paths: list[str]) -> None:
    """In whatever order: every sphere ends with each sphere's part exactly once, over n - 1 edges and one top."""
    members = [Member(sphere=100 - index, path=path) for index, path in enumerate(paths)]
    everybody = Counter(member.sphere for member in members)
    assert all(holds == everybody for holds in added_up(members).values())
    plans = all_plans(members)
    groups = {plan.name: plan.members for mine in plans.values() for plan in mine}
    assert sum(len(group) - 1 for group in groups.values()) == len(members) - 1
    assert sum(plan.top for mine in plans.values() for plan in mine if not plan.rank) == (len(members) > 1)
    for sphere, mine in plans.items():
        assert [plan.level for plan in mine] == sorted({plan.level for plan in mine})
        assert all(plan.members[plan.rank].sphere == sphere and plan.members == groups[plan.name] for plan in mine)
        assert all(plan.rank == 0 for plan in mine[1:]), "who is in a higher group leads in all below"


def test_a_group_holds_the_leaders_of_its_nodes_children() -> None:
    """One example written out: a/x has two spheres, a/y and b/z one each."""
    members = members_of("a/x:2,a/y:1,b/z:1")
    groups = {plan.name: [m.path for m in plan.members] for m in members for plan in plan_levels(members, m.sphere)}
    assert groups == {
        "root": ["a/x/0", "b/z/0"],
        "level 1/a": ["a/x/0", "a/y/0"],
        "level 2/a/x": ["a/x/0", "a/x/1"],
    }


def test_impossible_memberships_are_refused() -> None:
    """A stranger, and a sphere at an inner node: control's mistakes, told before any group is built."""
    members = members_of("2x2")
    with pytest.raises(ValueError, match="sphere 99 is none of the members"):
        plan_levels(members, 99)
    with pytest.raises(ValueError, match="which is an inner node"):
        plan_levels([*members, Member(sphere=99, path="0")], 11)


@pytest.mark.parametrize("tree", TREES)
def test_groups_leave_no_thread_and_no_socket(tree: str) -> None:
    """Built, used once, closed; the fixture looks. All say who they are."""

    def work(groups: Groups, index: int) -> str:
        sum_over_tree(groups, torch.ones(5, dtype=torch.int64))
        return repr(groups)

    texts = results(on_spheres(tree, work))
    assert all(f"sphere {11 + index}" in text and "generation (1, 1)" in text for index, text in enumerate(texts))
    assert ("alone" in texts[0]) == (tree == "1")


def test_a_member_that_never_comes_is_given_up_in_time() -> None:
    """gloo's constructor may block longer; `connect` doesn't."""
    members = members_of("3")
    start = time.monotonic()
    with pytest.raises(PeerLost, match=r"sphere 11 \(0\) could not build its groups of generation \(1, 1\)"):
        Groups.build(HashStore(), members, 11, GENERATION, 0.6)
    assert time.monotonic() - start < 3


def test_a_build_is_broken_off_at_once() -> None:
    """A newer View during the build: `abort` ends the waiting, not the time-out. What gloo was given ends with it."""
    groups = Groups(members_of("3"), 11, GENERATION)
    timer = threading.Timer(0.05, groups.abort)
    timer.start()
    start = time.monotonic()
    with pytest.raises(PeerLost, match="broken off"):
        groups.connect(HashStore(), 2.0)
    assert time.monotonic() - start < 1.5
    timer.join()
    groups.close()


def test_a_blocked_collective_raises_when_its_sphere_breaks_off() -> None:
    """Sphere 12 never joins the second sum; sphere 11 waits in it until its own abort, not for 20 s."""

    def work(groups: Groups, index: int) -> float:
        sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
        start = time.monotonic()
        if index == 0:
            timer = threading.Timer(0.2, groups.abort)
            timer.start()
            with pytest.raises(PeerLost, match=r"with 12 \(1\) in generation \(1, 1\), which was broken off"):
                sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
            timer.join()
        return time.monotonic() - start

    assert max(results(on_spheres("2", work))) < 5


class Forgotten:
    """A collective that gloo will never end, and never fail."""

    def wait(self, timeout: timedelta) -> bool:
        raise RuntimeError(f"Operation timed out after {timeout}!")

    def is_completed(self) -> bool:
        return False


@pytest.mark.parametrize(("gone", "sentence"), [(True, "a connection to a peer is gone"), (False, "broken off")])
def test_a_collective_that_gloo_forgot_ends_with_its_connection_or_its_generation(gone: bool, sentence: str) -> None:
    """gloo sometimes closes a connection and tells nobody who waits: we look ourselves. Broken off: the same."""

    def work(groups: Groups, index: int) -> None:
        if index == 0:
            started = Started(groups, groups.plans[0], "broadcast")
            started.work = Forgotten()  # type: ignore[assignment]
            timer = threading.Timer(0.1, groups.abort)
            if gone:
                groups._sockets = {1 << 20: "socket:[1]"}
            else:
                timer.start()
            with pytest.raises(PeerLost, match=sentence):
                started.wait()
            timer.cancel()

    results(on_spheres("2", work))


def test_a_slow_collective_is_waited_for() -> None:
    """Longer than we leave it to gloo at a time, with nothing wrong: the sum is right."""

    def work(groups: Groups, index: int) -> int:
        tensor = torch.ones(1, dtype=torch.int64)
        if index == 0:
            threading.Event().wait(3 * WATCH_S)
        sum_over_tree(groups, tensor)
        return int(tensor)

    assert results(on_spheres("2x2", work)) == [4] * 4


def test_an_operation_that_nobody_joins_ends_at_its_time_out() -> None:
    """Where sockets can't be shut, this is what is left."""

    def work(groups: Groups, index: int) -> float:
        start = time.monotonic()
        if index == 0:
            with pytest.raises(PeerLost, match="Timed out"):
                sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
        return time.monotonic() - start

    assert 0.5 <= results(on_spheres("2", work, operation_s=0.5))[0] < 5


def test_a_failed_group_is_dropped_although_the_error_is_kept() -> None:
    """The traceback of PeerLost holds no group, else far members would wait. No call works afterwards."""

    def work(groups: Groups, index: int) -> bool:
        held = [weakref.ref(group) for group in groups._groups.values()]
        groups.abort()
        with pytest.raises(PeerLost) as kept:
            sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
        groups.close()
        with pytest.raises(PeerLost, match="broken off"):
            sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
        return kept.value.__traceback__ is not None and bool(held) and gone(held)

    assert results(on_spheres("2", work, SHORT_S)) == [True, True]


def test_closed_groups_are_destroyed_though_the_object_is_kept() -> None:
    """Threads and sockets end with `close`, not with the garbage collector; finished collectives are forgotten."""

    def work(groups: Groups, index: int) -> tuple[Groups, list[weakref.ref[object]], int]:
        sum_over_tree(groups, torch.ones(1, dtype=torch.int64))
        return groups, [weakref.ref(group) for group in groups._groups.values()], len(groups._started)

    for groups, held, unfinished in results(on_spheres("2x2", work)):
        assert held and gone(held), groups
        assert unfinished == 0


def gone(held: Sequence[weakref.ref[Any]]) -> bool:
    """Whether all of them are destroyed, for which the graveyard has the time that a call may take."""
    deadline = time.monotonic() + 2 * SHORT_S
    while any(ref() for ref in held) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return not any(ref() for ref in held)


def test_leaving_groups_does_not_wait_for_gloo() -> None:
    """A call that gloo forgot keeps its group until its time-out: the grave does, not whoever leaves."""

    class Hanging:
        def __del__(self) -> None:
            released.wait(20.0)

    released = threading.Event()
    before = graves()
    groups = Groups(members_of("2"), 11, GENERATION)
    groups._groups = {(0, "up"): Hanging()}  # type: ignore[dict-item]
    groups.close()
    assert not released.is_set() and graves() == before + 1
    released.set()


def test_fifty_generations_leave_no_descriptor() -> None:
    """Half of them are broken off in the middle of a sum, by another sphere each time; the fixture looks at threads."""
    members = members_of("2x2")
    store = HashStore()
    together = threading.Barrier(len(members))
    found: list[int] = []

    def sphere(index: int) -> None:
        for number in range(50):
            groups = Groups(members, 11 + index, (1, number + 1), SHORT_S)
            groups.connect(store, 10.0)
            together.wait(20.0)
            with suppress(PeerLost):
                if number % 2 and index == number % 4:
                    groups.abort()
                sum_over_tree(groups, torch.ones(1000, dtype=torch.int64))
            together.wait(20.0)
            groups.close()
            together.wait(20.0)
            if index == 0 and number in (9, 49):
                found.append(settled_descriptors())
            together.wait(40.0)

    threads = [threading.Thread(target=sphere, args=(index,)) for index in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[1] <= found[0]


def settled_descriptors() -> int:
    """How many descriptors are open once the graveyard is empty."""
    deadline = time.monotonic() + 3 * SHORT_S
    while graves() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return len(os.listdir("/proc/self/fd"))


PROCESSES = """
import json, os, signal, sys, time, torch
from torch.distributed import FileStore
from control.protocol import Member
from control.tree import parse_tree
from spheres.groups import Groups, PeerLost
from spheres.reduce import sum_over_tree
tree, victim, deed, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
members = [Member(sphere=11 + index, path=path) for index, path in enumerate(parse_tree(tree))]
def sphere(index):
    groups = Groups.build(FileStore(f"{folder}/store", -1), members, 11 + index, (1, 1), 20.0)
    sum_over_tree(groups, torch.ones(10, dtype=torch.int64))
    if index == victim:
        with open(f"{folder}/{index}", "w") as file:
            json.dump({"at": time.monotonic()}, file)
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        groups.abort()
        while len(os.listdir(folder)) < len(members) + 1:  # alive until the others are out: nothing is closed by exit
            time.sleep(0.01)
        return
    try:
        sum_over_tree(groups, torch.ones(10, dtype=torch.int64))
        text = ""
    except PeerLost as error:
        text = str(error)
    with open(f"{folder}/{index}", "w") as file:
        json.dump({"at": time.monotonic(), "text": text}, file)
    groups.close()
children = []
for index in range(len(members)):
    child = os.fork()
    if child == 0:
        try:
            sphere(index)
        finally:
            os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("tree", "victim", "deed"),
    [("5", 2, "abort"), ("5", 2, "kill"), ("2x2", 3, "kill"), ("a/x:2,a/y:1,b/z:1", 0, "abort")],
)
def test_when_one_process_breaks_off_or_dies_all_others_raise_quickly(
    tmp_path: Path, tree: str, victim: int, deed: str
) -> None:
    """Real processes, operation time-out 300 s: within two seconds all are out, non-neighbours in a ring too."""
    command = [sys.executable, "-c", PROCESSES, tree, str(victim), deed, str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(timeout=40) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too, should they hang
    spheres = len(members_of(tree))
    told = [json.loads((tmp_path / str(index)).read_text()) for index in range(spheres)]
    for index in set(range(spheres)) - {victim}:
        assert f"sphere {11 + index}" in told[index]["text"]
        assert told[index]["at"] - told[victim]["at"] < 2
