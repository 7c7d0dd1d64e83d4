"""Control's own time, in which a control that was stopped finds nobody silent."""

from __future__ import annotations

import time

LATE_S = 0.5
"""A turn that took longer counts as so much: control itself was asleep, nobody else was silent."""


class AwakeClock:
    """Seconds in which this process was awake."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._awake = 0.0

    def now_s(self) -> float:
        now = time.monotonic()
        self._awake += min(now - self._last, LATE_S)
        self._last = now
        return self._awake
