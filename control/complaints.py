"""What strangers do wrong, in few lines: whoever floods control must not flood its log."""

from __future__ import annotations

import logging

log = logging.getLogger("control")

EVERY_S = 10.0
LOGGED = 300
"""Characters of a sentence that strangers may have made long."""


class Complaints:
    """One line for each kind of trouble in EVERY_S, with the number of those that were left out."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}
        self._more: dict[str, int] = {}

    def say(self, kind: str, text: str, now_s: float, count: int = 1) -> bool:
        """Whether it was said, now. kind: one of few words, never a stranger's. count: so often has it happened."""
        if now_s - self._said_s.get(kind, float("-inf")) < EVERY_S:
            self._more[kind] = self._more.get(kind, 0) + count
            return False
        more = self._more.pop(kind, 0) + count - 1
        self._said_s[kind] = now_s
        shown = "".join(sign if sign.isprintable() else "?" for sign in text[:LOGGED])
        log.warning("%s: %s%s", kind, shown, f" (and {more} more of this kind)" if more else "")
        return True
