"""Which hosts there are, and who reaches whom there before anybody is a member of anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World


def stack_of(world: World, path: str) -> str:
    """Each node above the spheres is a host, of a flat tree each sphere is; in two of three worlds all share one."""
    return path.rpartition("/")[0] or path if world.seed % 3 == 1 else ""


def is_reached(world: World, path: str, other: int) -> bool:
    """Whether who is at that path reaches this sphere, a newcomer perhaps."""
    two = next((each for each in world.spheres if each.alive and each.sphere == other), None)
    if two is None or two.frozen_until_s > world.now_s:
        return False
    return all(world.apart.get(pair, -1.0) <= world.now_s for pair in ((path, two.path), (two.path, path)))
