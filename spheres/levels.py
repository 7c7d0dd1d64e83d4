"""From paths to groups: who adds up with whom.

1. A path is a leaf; its prefixes are inner nodes; the empty prefix is the root, level 0.
2. The leader of a node is the first sphere under it, in the order of the View.
3. An inner node with more than one child has a group: the leaders of its children. The first of them is rank 0 and
   leads the node too. So a sphere is in the groups of its deepest nodes, as far up as it leads.
4. The first node that branches, seen from the root, holds the whole tree; its group is the `top`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from control.protocol import Member


@dataclass(frozen=True)
class LevelPlan:
    """One group of one sphere."""

    level: int
    """Depth of the node; 0 is the root."""
    node: str
    members: tuple[Member, ...]
    """The leaders of the node's children: rank 0 leads the node."""
    rank: int
    top: bool
    """Whether the whole tree is below this node."""

    @property
    def name(self) -> str:
        """Unique in its generation."""
        return f"level {self.level}/{self.node}" if self.node else "root"

    def child(self, rank: int) -> str:
        """The node whose leader has this rank, by its path."""
        return "/".join(self.members[rank].path.split("/")[: self.level + 1])

    def link(self, rank: int) -> str:
        """What lies between this node's leader and that of the child with this rank, as people call it."""
        return f"{self.child(0)} – {self.child(rank)}"


def plan_levels(members: Sequence[Member], me: int) -> list[LevelPlan]:
    """The groups that sphere `me` takes part in, nearest to the root first; none if it is alone."""
    mine = next((member for member in members if member.sphere == me), None)
    if mine is None:
        raise ValueError(f"sphere {me} is none of the members {[member.sphere for member in members]}")
    parts = mine.path.split("/")
    plans: list[LevelPlan] = []
    top = True
    for level in range(len(parts)):
        leaders = _leaders(members, parts[:level])
        here = [leader.sphere for leader in leaders]
        if len(leaders) > 1:
            if me in here:
                node = "/".join(parts[:level])
                plans.append(LevelPlan(level, node, tuple(leaders), here.index(me), top))
            top = False
    return plans


def backend_of(gpus: Sequence[str]) -> Literal["nccl", "gloo"]:
    """What carries a group's buckets: NCCL if each member has a GPU that it can reach, and no two the same one.

    gpus: which GPU of the world each member's is (`lightwatch.device.identity_of`); empty for none.
    """
    return "nccl" if all(gpus) and len(set(gpus)) == len(gpus) else "gloo"


def _leaders(members: Sequence[Member], node: list[str]) -> list[Member]:
    """The first sphere under each child of `node`, in the members' order."""
    leaders: dict[str, Member] = {}
    for member in members:
        parts = member.path.split("/")
        if parts[: len(node)] == node:
            if len(parts) == len(node):
                raise ValueError(f"sphere {member.sphere} is at {member.path}, which is an inner node of the tree")
            leaders.setdefault(parts[len(node)], member)
    return list(leaders.values())
