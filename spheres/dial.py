"""Dialing whom control wants to be dialed (control/newcomers.py), beside whatever this sphere does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from control.protocol import Dial, Dialed
from lightwatch.errors import LightwatchError

from .fetch import unreachable


def answer(dial: Dial, say: Callable[[Dialed], None]) -> None:
    """Try all of them at once, and say whom this sphere reached. Doesn't wait."""

    def look() -> None:
        gone = unreachable(dial.peers, dial.within_s)
        with contextlib.suppress(LightwatchError):  # the link was closed meanwhile
            say(Dialed(tried=[peer.sphere for peer in dial.peers], gone=gone))

    threading.Thread(target=look, name="dial", daemon=True).start()
