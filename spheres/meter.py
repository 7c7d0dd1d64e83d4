"""The byte ledger: what this sphere handed to each of its groups, which way, and how long that took.

Payload, counted where it is handed to gloo. Added up over spheres it is what a level's links carried:
  a sum to the leader      each member but the leader hands one tensor up
  a broadcast              the leader hands one tensor down for each other member
  an all-reduce            (n - 1) tensors up and as many down for the n members, a share of 1/n at each
  a record to the leader   as it is sent
The least for a finished version is one gradient up and one down for each member but the leader.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from control.status import Traffic

from .levels import LevelPlan


class Meter:
    """Of one sphere, over all its generations. Any thread may book."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[int, str], Traffic] = {}

    def handed(self, plan: LevelPlan, *, up: int = 0, down: int = 0, seconds: float = 0.0) -> None:
        """Book bytes of one collective, and the time until it had ended."""
        self._book(plan, Traffic(level=plan.level, node=plan.node, up=up, down=down, seconds=seconds))

    def reduced_everywhere(self, plan: LevelPlan, size: int, seconds: float) -> None:
        """Book an all-reduce of a tensor of so many bytes."""
        share = _share(plan, size)
        self.handed(plan, up=share, down=share, seconds=seconds)

    def made_version(self, plans: Sequence[LevelPlan], gradient_bytes: int) -> None:
        """Book the least that a version needed, whose gradient has so many bytes."""
        for plan in plans:
            if plan.top:
                least = 2 * _share(plan, gradient_bytes)
            else:
                least = gradient_bytes if plan.rank else gradient_bytes * (len(plan.members) - 1)
            self._book(plan, Traffic(level=plan.level, node=plan.node, least=least))

    def lines(self) -> list[Traffic]:
        """The ledger so far, from the root level down."""
        with self._lock:
            return [self._lines[key] for key in sorted(self._lines)]

    def _book(self, plan: LevelPlan, more: Traffic) -> None:
        key = (plan.level, plan.node)
        with self._lock:
            line = self._lines.get(key, Traffic(level=plan.level, node=plan.node))
            self._lines[key] = Traffic(
                level=plan.level,
                node=plan.node,
                up=line.up + more.up,
                down=line.down + more.down,
                least=line.least + more.least,
                seconds=line.seconds + more.seconds,
            )


def _share(plan: LevelPlan, size: int) -> int:
    """This member's part of the (n - 1) tensors that an all-reduce moves each way; the parts add up to them."""
    every, members = size * (len(plan.members) - 1), len(plan.members)
    return every // members + (plan.rank < every % members)
