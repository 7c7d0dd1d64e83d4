"""Who comes to a run and who goes, in lines for the person at `lightwatch up`, whose machine has no sphere of its own.

Control is asked now and then how each sphere is, and what differs from the look before is told. So whatever happened in
between, the next look is true again, also after control was started anew; and what many do at once is one line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import one_line, spoken_count

if TYPE_CHECKING:
    from control.status import Health, SphereHealth

LOOK_EVERY_S = 1.0
ANSWER_S = 1.0
NAMED_MOST = 6
ENDING = ("stopping", "stopped")
CAME, BACK, LEFT, LOST, OUT = "came", "back", "left", "lost", "out"
KINDS = {
    CAME: ("came", "came"),
    BACK: ("is back", "are back"),
    LEFT: ("left, as it was asked to", "left, as they were asked to"),
    LOST: ("was lost", "were lost"),
    OUT: ("out of the run", "are out of the run"),
}
"""What can happen to a sphere, as it is said of one and of several; in the order in which it is told."""


class Comings:
    """A thread of its own asks: neither the run nor its launcher waits for an answer. `close` ends it.

    wait_for: how many spheres the run begins with. tell: is given each line, in that thread.
    """

    def __init__(self, address: str, key: Path | None, wait_for: int, tell: Callable[[str], None]) -> None:
        self._over = threading.Event()
        about = (address, key, wait_for, tell)
        self._asker = threading.Thread(target=self._ask, args=about, name="comings", daemon=True)
        self._asker.start()

    def close(self) -> None:
        """Nothing is told after this. Blocks until the last question is answered, for ANSWER_S at most."""
        self._over.set()
        self._asker.join()

    def _ask(self, address: str, key: Path | None, wait_for: int, tell: Callable[[str], None]) -> None:
        from control.client import ControlClient
        from control.errors import ControlError

        before: Health | None = None
        with ControlClient(address, timeout_s=ANSWER_S, key=key) as client:
            while not self._over.wait(LOOK_EVERY_S):
                try:
                    now = client.health()
                except ControlError:  # busy, or gone: the launcher sees which
                    continue
                for line in news(before, now, wait_for):
                    tell(line)
                before = now


def news(before: Health | None, now: Health, wait_for: int = 0) -> list[str]:
    """A line for each kind of thing that happened between two looks; before: None at the first one, which tells who is
    here. At the end of a run all leave, which is no news."""
    if now.state in ENDING:
        return []
    was = {each.path: each for each in before.spheres} if before is not None else {}
    happened: dict[str, list[SphereHealth]] = {}
    for each in now.spheres:
        what = _what_happened(was.get(each.path), each, first=before is None)
        happened.setdefault(what, []).append(each)
    here = sum(each.here for each in now.spheres)
    many = f"{here} of {wait_for} here" if wait_for and now.state == "initializing" else f"{here} here"
    return [one_line(f"{_spoken(what, happened[what])} ({many})") for what in KINDS if what in happened]


def _what_happened(former: SphereHealth | None, now: SphereHealth, *, first: bool) -> str:
    """One of KINDS; empty for nothing. A path that has another sphere than before may have had several meanwhile."""
    if former is not None and former.sphere == now.sphere:
        if former.here == now.here:
            return ""
        if now.here:
            return BACK
    elif now.here:
        return CAME
    elif first or not now.sphere:
        return ""
    return OUT if now.why else LEFT if now.state == "left" else LOST


def _spoken(what: str, spheres: list[SphereHealth]) -> str:
    """One of them by its path, several by their number and the first paths. A reason names its sphere."""
    first, *more = spheres
    one, several = KINDS[what]
    if not more and what == OUT:
        return f"{one}: {first.why}"
    if not more:
        where = f", on {first.host}" if what == CAME else ""
        return f"sphere {first.path} {one}{where}"
    why = f"; the first: {first.why}" if what == OUT else ""
    return f"{spoken_count(len(spheres), 'sphere')} {several}: {_names(spheres)}{why}"


def _names(spheres: list[SphereHealth]) -> str:
    paths = [each.path for each in spheres]
    return ", ".join(paths[:NAMED_MOST]) + (", …" if len(paths) > NAMED_MOST else "")
