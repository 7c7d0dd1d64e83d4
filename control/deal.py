"""Who computes which micro-batches: by how fast each sphere is. No bit of the result depends on it.

Micro-batches are whole and alike, so the best that can be had is that the last one ends as early as possible; giving
each in turn to whoever would finish it first does just that (no list of other jobs is pending, and all are equal).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heapreplace
from statistics import median

WORTH, WORTH_S = 1.1, 0.005
"""A new deal is ordered when the one in force takes so many times the best one's time, and so many seconds more."""


def counts(units: int, spheres: Sequence[int], paces: Mapping[int, float]) -> dict[int, int]:
    """How many of `units` micro-batches each sphere gets; the earlier sphere first where times are equal.

    paces: seconds a micro-batch. A sphere without one counts as the median of the others; nobody has one: all alike.

    >>> counts(8, [1, 2, 3], {1: 0.1, 2: 0.1, 3: 0.3})
    {1: 4, 2: 3, 3: 1}
    """
    known = [paces[sphere] for sphere in spheres if paces.get(sphere, 0.0) > 0]
    usual = median(known) if known else 1.0
    pace = [found if (found := paces.get(sphere, 0.0)) > 0 else usual for sphere in spheres]
    given = [0] * len(spheres)
    ends = [(each, rank) for rank, each in enumerate(pace)]  # when each would have finished one more
    heapify(ends)
    for _ in range(units):
        _, rank = ends[0]
        given[rank] += 1
        heapreplace(ends, ((given[rank] + 1) * pace[rank], rank))
    return dict(zip(spheres, given, strict=True))


def staying(spheres: Sequence[int], leaving: Collection[int]) -> list[int]:
    """Who is dealt anything: those who stay; all, if nobody does.

    >>> staying([1, 2, 3], [2]), staying([1, 2], [2, 1, 7])
    ([1, 3], [1, 2])
    """
    return [sphere for sphere in spheres if sphere not in leaving] or list(spheres)


def deal(indices: Sequence[int], spheres: Sequence[int], paces: Mapping[int, float]) -> dict[int, list[int]]:
    """The indices, a block for each sphere, in the order of the spheres.

    >>> deal(range(7), [5, 2, 9], {})
    {5: [0, 1, 2], 2: [3, 4], 9: [5, 6]}
    """
    dealt: dict[int, list[int]] = {}
    start = 0
    for sphere, count in counts(len(indices), spheres, paces).items():
        dealt[sphere] = list(indices[start : start + count])
        start += count
    return dealt


def time_s(given: Mapping[int, int], paces: Mapping[int, float]) -> float:
    """When the last one ends, if each takes as long as `paces` says."""
    return max((count * paces[sphere] for sphere, count in given.items()), default=0.0)


def is_worth(units: int, spheres: Sequence[int], in_force: Mapping[int, float], measured: Mapping[int, float]) -> bool:
    """Whether dealing anew by what was measured saves a notable part of the time."""
    now = time_s(counts(units, spheres, in_force), measured)
    best = time_s(counts(units, spheres, measured), measured)
    return now > WORTH * best and now - best > WORTH_S
