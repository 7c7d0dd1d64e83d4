"""Whether peers that are waited for can be reached at all.

A link that drops what is sent over it tells nobody, and a collective over it would hang to its time-out; a peer that is
slow is waited for as long as it takes. So whoever has waited for silence_s asks the peers' larders, which answer from
libzmq's own thread, whatever the peer computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from control.protocol import Member

from .fetch import unreachable


class Lookout:
    """For one generation. peers: to be looked for. gone: those whom the last look did not find, by sphere."""

    def __init__(self, peers: Sequence[Member], silence_s: float) -> None:
        self.gone: list[int] = []
        self._peers = peers
        self._silence_s = silence_s
        self._asked_s = 0.0
        self._thread: threading.Thread | None = None

    def trouble(self, waited_s: float) -> str:
        """Why what was waited for since `waited_s` will never come; empty if it may. Never blocks: ask again."""
        now_s = time.monotonic()
        if waited_s < self._silence_s or (self._thread is not None and self._thread.is_alive()):
            return ""
        if self.gone and self._asked_s > now_s - waited_s:
            lost = ", ".join(f"{peer.sphere} ({peer.path})" for peer in self._peers if peer.sphere in self.gone)
            return f"sphere {lost} can't be reached"
        if now_s - self._asked_s >= self._silence_s:
            self._asked_s = now_s
            self._thread = threading.Thread(target=self._look, name="lookout", daemon=True)
            self._thread.start()
        return ""

    def _look(self) -> None:
        self.gone = unreachable(self._peers, self._silence_s)
