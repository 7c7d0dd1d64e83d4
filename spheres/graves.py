"""Groups that are over, on their way out of the process: destroying one may take until its operations time out.

That is done in threads which nobody waits for, but `graves` counts them, so that a process that has too many can be
started anew.
"""

from __future__ import annotations

import threading
from typing import Any

from lightwatch.errors import LightwatchError

GRAVE, BUILDER = "graveyard", "groups"
"""What threads are called that destroy groups, and such as build them."""


class Worn(LightwatchError):
    """gloo holds on to too much of former generations: this process must be started anew."""


def graves() -> int:
    """How many threads of this process destroy groups, or are left behind in building them."""
    return sum(thread.name in (GRAVE, BUILDER) for thread in threading.enumerate())


def bury(remains: list[Any], on_gpus: list[Any]) -> None:
    """Take the last references to groups and their work; those of NCCL are told to abort first. Doesn't wait."""
    threading.Thread(target=_destroy, args=(remains, on_gpus), name=GRAVE, daemon=True).start()


def _destroy(remains: list[Any], on_gpus: list[Any]) -> None:
    while on_gpus:  # first: a kernel that waits for a peer would keep everything
        on_gpus.pop().abort()
    remains.clear()
