"""A tree of spheres as threads of the test, with real gloo groups that meet in torch's HashStore."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from torch._C._distributed_c10d import HashStore

from control.protocol import Member
from control.tree import parse_tree
from spheres.groups import Groups

T = TypeVar("T")

TREES = [
    "1",
    "2",
    "4",
    "2x2",
    "3",
    "a:2,b:1",
    "2x2x2",
    "a/x:2,a/y:1,b/z:1",
    "a:1,a/x:2,b:2",
    "r/s/t:3",
    "a:3,b/c:1,d:2",
]
"""Equal and unequal groups, deep ones, lone chains, inner nodes that hold both spheres and inner nodes."""
GENERATION = (1, 1)
PATIENCE_S = 20.0
SHORT_S = 4.0
"""Operation time-out where calls are broken off: gloo forgets one now and then, and its group lasts as long."""


def members_of(tree: str) -> list[Member]:
    """Spheres in tree order; ids start at 11, so that no rank can be taken for an id."""
    return [Member(sphere=11 + index, path=path) for index, path in enumerate(parse_tree(tree))]


def on_spheres(
    tree: str,
    work: Callable[[Groups, int], T],
    operation_s: float = PATIENCE_S,
    prepare: Callable[[Groups, int], object] = lambda _groups, _index: None,
) -> list[T | Exception]:
    """Run `work(groups, index)` on all spheres of a tree at once: what each returned or raised, in tree order.

    prepare: done to each sphere's groups before they connect. The work begins when all are connected, and all close
    their groups only after all have ended, as a run does.
    """
    members = members_of(tree)
    store = HashStore()
    outcomes: list[T | Exception] = [TimeoutError(tree)] * len(members)
    all_built = threading.Barrier(len(members))
    all_ended = threading.Barrier(len(members))

    def run(index: int) -> None:
        groups = Groups(members, members[index].sphere, GENERATION, operation_s)
        try:
            prepare(groups, index)
            groups.connect(store, PATIENCE_S)
            all_built.wait(PATIENCE_S)
            outcomes[index] = work(groups, index)
        except Exception as error:
            outcomes[index] = error
            all_built.abort()
        finally:
            all_ended.wait(2 * PATIENCE_S)
            groups.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def results(outcomes: list[T | Exception]) -> list[T]:
    """The same, where nobody was to raise."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failures:
        raise ExceptionGroup("spheres", failures)
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
