"""What the launcher should do next, and the exit code: pure functions of what it has seen."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

HOST_FOLLOWS_S = 20.0
"""After control has ended in order the host may still write: a model to a slow disk."""
HOST_CUT_OFF_S = 1.0
"""After control has died the host has nobody to listen to."""
CONTROL_JUDGES_S = 6.0
"""After a process has ended: its connection closed with it, so control needs some 2 s to name it and end the others."""

STOPPED_MOST_S = 15.0
"""A control that is stopped and goes on heals by itself; after so long nobody is expected to wake it."""


class Do(enum.Enum):
    """The launcher's next move."""

    WAIT = "wait"
    ORDER_STOP = "order stop"
    FINISH = "finish"
    KILL = "kill"


@dataclass(frozen=True)
class Seen:
    """What the launcher has seen; instants are on its own clock, codes are None while a process runs."""

    signals: tuple[int, ...] = ()
    stop_ordered: bool = False
    control_code: int | None = None
    host_code: int | None = None
    trouble_at_s: float | None = None
    """When a sphere or the host first ended badly, or control ended at all."""
    begun: bool = True
    """Whether a sphere was ever started: if not, control has nobody to judge."""
    trained: bool = True
    """Whether there was ever a version: if not, nothing is still being written."""
    control_stopped_s: float = 0.0


def decide(seen: Seen, now_s: float) -> tuple[Do, str]:
    """The next move and its reason (empty where there is nothing to explain)."""
    if len(seen.signals) > 1:
        return Do.KILL, "a second signal ended the run at once [LW514]"
    if seen.control_code is not None and seen.host_code is not None:
        return Do.FINISH, ""
    if seen.trouble_at_s is not None and now_s - seen.trouble_at_s > patience_s(seen):
        return Do.KILL, _overdue(seen)
    if seen.control_stopped_s > STOPPED_MOST_S:
        return Do.KILL, f"control has been a stopped process (SIGSTOP) for {STOPPED_MOST_S:g} s [LW501]"
    if seen.signals and not seen.stop_ordered:
        return Do.ORDER_STOP, signal.Signals(seen.signals[0]).name
    return Do.WAIT, ""


def patience_s(seen: Seen) -> float:
    """How long the others may take once one has ended."""
    if seen.control_code is None:
        return CONTROL_JUDGES_S if seen.begun else 0.0
    return HOST_CUT_OFF_S if seen.control_code or not seen.trained else HOST_FOLLOWS_S


def _overdue(seen: Seen) -> str:
    if not seen.begun:
        return "no sphere was started [LW410]"
    if seen.control_code is None:
        return "control did not end the run [LW501]"
    return "the spheres did not leave after control had ended [LW410]"


def exit_code(status: str, *, usage: bool = False, signals: tuple[int, ...] = ()) -> int:
    """0 done or stopped, 1 failed, 2 the user's input is to blame, 130 Ctrl-C."""
    if status == "completed":
        return 0
    if signal.SIGINT in signals:
        return 130
    if status == "stopped":
        return 0
    return 2 if usage else 1
