"""SIGTERM, as control takes it: the first is the order to stop, a second ends the run at once."""

from __future__ import annotations

import signal


class Sigterm:
    """How often it came. The loop looks, so nothing happens inside a signal handler."""

    def __init__(self) -> None:
        self.came = 0
        self.seen = 0
        """So many were obeyed."""

    def catch(self) -> None:
        """From here on; SIGINT, which a terminal sends to all its processes, is not for control."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._one_more)

    @property
    def is_new(self) -> bool:
        return self.came > self.seen

    def _one_more(self, number: int, frame: object) -> None:
        self.came += 1
