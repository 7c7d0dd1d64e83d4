"""A small record summed over all spheres: up to each node's leader, from one sphere back down to all.

Two hops a level, whoever many its members: a ring takes 2 (n - 1), each with the link's whole delay. The record is a
few KB, so that one leader takes all is no burden.

It measures links for nothing. Each member says how long it has held on since it got the last result; its leader knows
how long that took in all; the difference is the round trip of the link between the two, by name. No clock is compared.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import torch
from torch import Tensor

from lightwatch.errors import coded

from .groups import Groups, PeerLost
from .levels import LevelPlan

HEAD = 1
"""Words before the record: how long its sender has held on, in microseconds."""
ROUND_TRIPS_KEPT = 15
NOTHING_HELD = -1


class Exchange:
    """Of one sphere in one generation. Blocks in gloo unwatched: its threads are such as may be left behind."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._led = [plan for plan in groups.plans if plan.rank == 0]
        self._beside = {plan.level: _Beside(partial(self._collect, plan)) for plan in self._led[:-1]}
        self._heard_s: float | None = None
        """When the last result came from above."""
        self._told_s: dict[str, float] = {}
        """Link -> when the last result was sent down it."""
        self._round_trips: dict[str, deque[float]] = {}

    def sum(self, record: Tensor) -> None:
        """Overwrite `record` (int64, 1-D, on the CPU) with the sum over all spheres. Raises PeerLost.

        Its first HEAD words are used on the way, and mean nothing to the caller.
        """
        for beside in self._beside.values():
            beside.begin(record)
        for plan in reversed(self._groups.plans):
            if plan.rank:
                self._pass_on(plan, record)
                continue
            come = self._beside[plan.level].result() if plan.level in self._beside else self._collect(plan, record)
            for theirs in come:
                record[HEAD:] += theirs[HEAD:]
        for plan in self._led:
            self._hand_down(plan, record)

    def close(self) -> None:
        """Let the threads end."""
        for beside in self._beside.values():
            beside.begin(None)

    def round_trips(self) -> dict[str, float]:
        """Seconds by link, medians of the newest; of the links that lead down from here."""
        return {link: statistics.median(seconds) for link, seconds in self._round_trips.items()}

    def _pass_on(self, plan: LevelPlan, record: Tensor) -> None:
        """Give the sum so far to the leader, and get the whole back."""
        held_s = time.perf_counter() - self._heard_s if self._heard_s is not None else None
        record[0] = NOTHING_HELD if held_s is None else round(held_s * 1e6)
        self._groups.send(plan, 0, record)
        self._groups.receive(plan, record)
        self._heard_s = time.perf_counter()

    def _collect(self, plan: LevelPlan, record: Tensor) -> list[Tensor]:
        """The other members' records; each link is measured when one arrives."""
        come = []
        for _ in plan.members[1:]:
            theirs = torch.zeros_like(record)
            rank = self._groups.receive(plan, theirs)
            self._measure(plan.link(rank), time.perf_counter(), int(theirs[0]))
            come.append(theirs)
        return come

    def _hand_down(self, plan: LevelPlan, record: Tensor) -> None:
        for rank in range(1, len(plan.members)):
            self._told_s[plan.link(rank)] = time.perf_counter()
            self._groups.send(plan, rank, record)

    def _measure(self, link: str, now_s: float, held_us: int) -> None:
        told_s = self._told_s.get(link)
        if told_s is not None and held_us != NOTHING_HELD:
            known = self._round_trips.setdefault(link, deque(maxlen=ROUND_TRIPS_KEPT))
            known.append(max(now_s - told_s - held_us / 1e6, 0.0))


class _Beside:
    """A daemon thread that collects at one level: what comes from afar is taken as it comes, also while the own leaf
    group is waited for; else its link would seem as slow as that group's slowest. Of an error only the words are kept:
    its traceback would keep dead groups alive."""

    def __init__(self, collect: Callable[[Tensor], list[Tensor]]) -> None:
        self._collect = collect
        self._records: SimpleQueue[Tensor | None] = SimpleQueue()
        self._come: SimpleQueue[list[Tensor] | str] = SimpleQueue()
        threading.Thread(target=self._work, name="exchange", daemon=True).start()

    def begin(self, record: Tensor | None) -> None:
        """Collect such records; None: end."""
        self._records.put(record)

    def result(self) -> list[Tensor]:
        """What came. Blocks. Raises PeerLost."""
        come = self._come.get()
        if isinstance(come, str):
            raise PeerLost(coded(come, "LW408"))
        return come

    def _work(self) -> None:
        while (record := self._records.get()) is not None:
            try:
                self._come.put(self._collect(record))
            except Exception as error:
                self._come.put(str(error) or type(error).__name__)
            del record
