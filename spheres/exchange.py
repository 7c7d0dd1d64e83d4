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

import torch
from torch import Tensor

from .groups import Groups
from .levels import LevelPlan

ROUND_TRIPS_KEPT = 15
NOTHING_HELD = -1


class Exchange:
    """Of one sphere in one generation. Blocks in gloo unwatched: its thread is one that may be left behind."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._heard_s: float | None = None
        """When the last result came from above."""
        self._told_s: dict[str, float] = {}
        """Link -> when the last result was sent down it."""
        self._round_trips: dict[str, deque[float]] = {}

    def sum(self, vector: Tensor) -> None:
        """Overwrite `vector` (int64, 1-D, on the CPU) with the sum over all spheres. Raises PeerLost."""
        record = torch.cat([torch.zeros(1, dtype=torch.int64), vector])
        for plan in reversed(self._groups.plans):
            if plan.rank:
                self._pass_on(plan, record)
            else:
                self._collect(plan, record)
        for plan in self._groups.plans:
            if plan.rank == 0:
                self._hand_down(plan, record)
        vector.copy_(record[1:])

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

    def _collect(self, plan: LevelPlan, record: Tensor) -> None:
        theirs = torch.empty_like(record)
        for _ in plan.members[1:]:
            rank = self._groups.receive(plan, theirs)
            self._measure(plan.link(rank), time.perf_counter(), int(theirs[0]))
            record[1:] += theirs[1:]

    def _hand_down(self, plan: LevelPlan, record: Tensor) -> None:
        for rank in range(1, len(plan.members)):
            self._told_s[plan.link(rank)] = time.perf_counter()
            self._groups.send(plan, rank, record)

    def _measure(self, link: str, now_s: float, held_us: int) -> None:
        told_s = self._told_s.get(link)
        if told_s is not None and held_us != NOTHING_HELD:
            known = self._round_trips.setdefault(link, deque(maxlen=ROUND_TRIPS_KEPT))
            known.append(max(now_s - told_s - held_us / 1e6, 0.0))
