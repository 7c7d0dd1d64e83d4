"""The byte ledger: what this sphere handed to each of its groups, which way, and how long that took.

Payload, counted where it is handed to gloo. Added up over spheres it is what a level's links carried:
  a sum to the leader      each member but the leader hands one tensor up
  a broadcast              the leader hands one tensor down for each other member
  an all-reduce            (n - 1) tensors up and as many down for the n members, a share of 1/n at each
  a record to the leader   as it is sent
The least for a finished version is one gradient up and one down for each member but the leader.

States that are fetched go from larder to larder; who fetched books them, at the node where its way to the donor turns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import takewhile

from control.status import Traffic

from .levels import LevelPlan


class Meter:
    """Of the sphere at `path`, over all its generations. Any thread may book."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._lock = threading.Lock()
        self._lines: dict[tuple[int, str], Traffic] = {}

    def handed(self, plan: LevelPlan, *, up: int = 0, down: int = 0, seconds: float = 0.0) -> None:
        """Book bytes of one collective, and the time until it had ended."""
        self._book(Traffic(level=plan.level, node=plan.node, up=up, down=down, seconds=seconds))

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
            self._book(Traffic(level=plan.level, node=plan.node, least=least))

    def fetched(self, donor: str, size: int) -> None:
        """Book bytes of a state that came from the sphere at that path."""
        ways = zip(self._path.split("/"), donor.split("/"), strict=False)
        shared = [mine for mine, _ in takewhile(lambda both: both[0] == both[1], ways)]
        self._book(Traffic(level=len(shared), node="/".join(shared), states=size))

    def lines(self) -> list[Traffic]:
        """The ledger so far, from the root level down."""
        with self._lock:
            return [self._lines[key] for key in sorted(self._lines)]

    def _book(self, more: Traffic) -> None:
        key = (more.level, more.node)
        with self._lock:
            line = self._lines.get(key, Traffic(level=more.level, node=more.node))
            self._lines[key] = Traffic(
                level=more.level,
                node=more.node,
                up=line.up + more.up,
                down=line.down + more.down,
                least=line.least + more.least,
                states=line.states + more.states,
                seconds=line.seconds + more.seconds,
            )


def _share(plan: LevelPlan, size: int) -> int:
    """This member's part of the (n - 1) tensors that an all-reduce moves each way; the parts add up to them."""
    every, members = size * (len(plan.members) - 1), len(plan.members)
    return every // members + (plan.rank < every % members)
