"""What an order that was given waits for, in words: pure, over the status."""

from __future__ import annotations

from .status import Status
from .tree import parse_tree, wait_for

NAMED = 6
AWAY = ("gone", "left")


def awaited(status: Status, number: int) -> str:
    """Who is not here yet, who does not obey order `number` yet, or what else has to be done for it."""
    here = [sphere for sphere in status.spheres if sphere.phase not in AWAY]
    if status.state == "initializing":
        return f"the run has not begun, and {_of_those_who_come(status, len(here))}"
    if not here:
        return "no sphere is here"
    late = [sphere for sphere in here if sphere.in_force < number]
    names = [f"sphere {sphere.path} ({sphere.phase} at v{sphere.version})" for sphere in late[:NAMED]]
    if len(late) > NAMED:
        names.append(f"{len(late) - NAMED} more")
    return f"not yet obeyed by {', '.join(names)}" if late else "all spheres obey, and what it asks for is under way"


def _of_those_who_come(status: Status, here: int) -> str:
    """How many of how many spheres are here for the first step. Who has left a tree of named paths is expected no more,
    and where no path is named more may come than are waited for."""
    left = sum(sphere.phase == "left" for sphere in status.spheres)
    wanted = wait_for(status.tree) or len(parse_tree(status.tree)) - left
    if here < wanted:
        return f"{here} of {wanted} sphere{'' if wanted == 1 else 's'} {'is' if 1 in (here, wanted) else 'are'} here"
    return "the sphere that is here starts" if here == 1 else f"the {here} spheres that are here start"
