"""A child of the launcher that is started anew when it ends unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .processes import Child

STOPPED_MOST_S = 15.0
"""A process that is stopped (SIGSTOP) and goes on heals by itself; after so long nobody is expected to wake it."""


@dataclass
class Kept:
    """A child, and the lives it has had.

    begin: starts its next life. is_final: whether an exit code ends it for good. code: the last one, once no other life
    follows; None until then. version: the newest when this life began: a life in which none was made came to nothing.
    """

    child: Child
    begin: Callable[[], Child]
    is_final: Callable[[int], bool]
    version: int = 0
    code: int | None = None
    restarts: int = 0
    in_vain: int = 0
    again_at_s: float | None = None
    stopped_at_s: float | None = None

    def look(self, now_s: float, version: int, *, anew: bool = True) -> int | None:
        """Begin the next life when it is due, kill what is stopped for good; the exit code of an end that is news.

        anew: whether it is still needed; if not, every end is for good.
        """
        if self.code is not None:
            return None
        if self.again_at_s is not None:
            self._begin_when_due(now_s, version, anew)
            return None
        code = self.child.code()
        if code is None:
            self._end_if_stopped(now_s)
            return None
        from spheres.restart import next_life

        pause_s = None
        if anew and not self.is_final(code):
            self.in_vain, pause_s = next_life(self.in_vain, made=version > self.version)
        self.code = code if pause_s is None else None
        self.again_at_s = None if pause_s is None else now_s + pause_s
        return code

    def _begin_when_due(self, now_s: float, version: int, anew: bool) -> None:
        if not anew:
            self.code, self.again_at_s = self.child.code(), None
        elif self.again_at_s is not None and now_s >= self.again_at_s:
            self.child.end()  # what was of its session, and our ends of its pipes
            self.child = self.begin()
            self.version, self.again_at_s, self.stopped_at_s = version, None, None
            self.restarts += 1

    def _end_if_stopped(self, now_s: float) -> None:
        if not self.child.is_stopped():
            self.stopped_at_s = None
        elif self.stopped_at_s is None:
            self.stopped_at_s = now_s
        elif now_s - self.stopped_at_s > STOPPED_MOST_S:
            self.child.kill()
