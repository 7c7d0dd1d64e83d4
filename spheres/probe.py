"""Finding out, beside everything else, which spheres can't be reached: what is found is in the next beats."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from control.protocol import View

from .fetch import unreachable
from .link import Link

LOOK = 0.5
"""Of silence_s: what a look takes at most, and the pause between two."""


def probe_members(link: Link, view: View, silence_s: float) -> None:
    """This generation failed here: look once whom of its members this sphere can't reach. Doesn't wait."""
    me = link.heard.sphere

    def look() -> None:
        gone = unreachable([member for member in view.members if member.sphere != me], silence_s * LOOK)
        if gone and link.standing.failed_in == view.generation:
            link.stand(unreachable=gone)

    _beside(look)


def probe_from_outside(link: Link, view: View, silence_s: float) -> None:
    """This sphere was left out: look until there is another roll call, for control lets it in once it finds everybody.
    Doesn't wait."""

    def look() -> None:
        while link.standing.generation == view.generation and not link.heard.ends(view.generation):
            gone = unreachable(view.members, silence_s * LOOK)
            if link.standing.generation == view.generation:
                link.stand(unreachable=gone)
            time.sleep(silence_s * LOOK)

    _beside(look)


def _beside(look: Callable[[], None]) -> None:
    threading.Thread(target=look, name="probe", daemon=True).start()
