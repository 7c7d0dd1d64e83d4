"""A small record summed over all spheres: up to each node's leader, from one sphere back down to all.

Two hops a level, whoever many its members: a ring takes 2 (n - 1), each with the link's whole delay. The record is a
few KB, so that one leader takes all is no burden.

It measures links for nothing. Each member says how long it has held on since it got the last result; its leader knows
how long that took in all; the difference is the round trip of the link between the two, by name. No clock is compared.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .groups import Groups
from .levels import LevelPlan

HEAD = 1
"""Words before the record: how long its sender has held on, in microseconds."""
ROUND_TRIPS_KEPT = 15
NOTHING_HELD = -1


class Exchange:
    """Of one sphere in one generation. Blocks in gloo unwatched: its thread is one that may be left behind."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._led = [plan for plan in groups.plans if plan.rank == 0]
        self._beside = ThreadPoolExecutor(len(self._led) - 1, "exchange") if len(self._led) > 1 else None
        self._heard_s: float | None = None
        """When the last result came from above."""
        self._told_s: dict[str, float] = {}
        """Link -> when the last result was sent down it."""
        self._round_trips: dict[str, deque[float]] = {}

    def sum(self, record: Tensor) -> None:
        """Overwrite `record` (int64, 1-D, on the CPU) with the sum over all spheres. Raises PeerLost.

        Its first HEAD words are used on the way, and mean nothing to the caller.
        """
        arrivals = {plan.level: self._collect_beside(plan, record) for plan in self._led[:-1]}
        for plan in reversed(self._groups.plans):
            if plan.rank:
                self._pass_on(plan, record)
                continue
            come = arrivals[plan.level].result() if plan.level in arrivals else self._collect(plan, record)
            for theirs in come:
                record[HEAD:] += theirs[HEAD:]
        for plan in self._led:
            self._hand_down(plan, record)

    def close(self) -> None:
        """Let the threads end."""
        if self._beside is not None:
            self._beside.shutdown(wait=False)

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

    def _collect_beside(self, plan: LevelPlan, record: Tensor) -> Future[list[Tensor]]:
        """What comes from afar is taken as it comes, also while the own leaf group is waited for: else its link would
        seem as slow as that group's slowest."""
        assert self._beside is not None
        return self._beside.submit(self._collect, plan, record)

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
