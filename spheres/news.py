"""What a supervisor says of its sphere: to a launcher, or to whoever started it by hand or under torchrun."""

from __future__ import annotations

import signal
from typing import Any

from . import restart


def spoken(item: dict[str, Any]) -> str:
    """An item of those that a launcher gets (supervise.py), as a line for people; empty: its log on stderr has it."""
    match item:
        case {"started": path, "pid": pid}:
            return f"sphere {path} has started (pid {pid})"
        case {"again": path, "pid": pid, "why": why}:
            return f"sphere {path} is started anew (pid {pid}): the one before {why}"
        case {"working": path, "pid": pid}:
            return f"sphere {path} is at work (pid {pid})"
        case {"exited": path, "pid": pid}:
            code = item["code"] if item["signal"] is None else -item["signal"]
            return f"sphere {path} (pid {pid}) {spoken_end(code)}"
        case {"printed": _, "text": str(text)}:
            return text
    return ""


def spoken_end(code: int | None) -> str:
    """How a worker ended, in a few words."""
    if code is None:
        return "ended"
    if code == restart.ANEW:
        return "asked to be started anew"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
