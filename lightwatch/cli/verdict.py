"""What the launcher should do next, and the exit code: pure functions of what it has seen.

That a process ends is no trouble: it is started anew. Trouble is what nobody heals: control or all spheres gone for
good, or a sphere given up before there was ever a version.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field

SPHERES_FOLLOW_S = 20.0
"""After control has ended in order the spheres may still write: a model to a slow disk."""
SPHERES_CUT_OFF_S = 1.0
"""After control is gone the spheres have nobody to listen to."""
CONTROL_JUDGES_S = 6.0
"""After spheres have left for good: their connections closed with them, so control needs some 2 s to say why."""


class Do(enum.Enum):
    """The launcher's next move."""

    WAIT = "wait"
    ORDER_STOP = "order stop"
    FINISH = "finish"
    KILL = "kill"


@dataclass(frozen=True)
class Seen:
    """What the launcher has seen; instants are on its own clock."""

    signals: tuple[int, ...] = ()
    stop_ordered: bool = False
    control_ready: bool = True
    """Whether control takes orders now: not between two lives."""
    control_code: int | None = None
    """None while it runs or will be started anew."""
    spheres_left: int = 1
    """That run or will be started anew."""
    all_left: bool = False
    """None is left, and each ended as it should."""
    trouble_at_s: float | None = None
    """When control, all spheres, or before the first version a sphere were first seen to be gone for good."""
    begun: bool = True
    """Whether a sphere was ever started: if not, control has nobody to judge."""
    trained: bool = True
    """Whether there was ever a version: if not, nothing is still being written."""


@dataclass(frozen=True)
class Ended:
    """How a run ended as the launcher saw it. reason: its own sentence, for where the ledger has none.

    restarts: of each path's sphere, where there were any.
    """

    reason: str = ""
    at_once: bool = False
    before_it_began: bool = False
    restarts: dict[str, int] = field(default_factory=dict)
    control_restarts: int = 0


def decide(seen: Seen, now_s: float) -> tuple[Do, str]:
    """The next move and its reason (empty where there is nothing to explain)."""
    if len(seen.signals) > 1:
        return Do.KILL, "a second signal ended the run at once [LW514]"
    if seen.control_code is not None and not seen.spheres_left:
        return Do.FINISH, ""
    if seen.trouble_at_s is not None and now_s - seen.trouble_at_s > patience_s(seen):
        return Do.KILL, _overdue(seen)
    if seen.signals and not seen.stop_ordered and seen.control_ready:
        return Do.ORDER_STOP, signal.Signals(seen.signals[0]).name
    return Do.WAIT, ""


def patience_s(seen: Seen) -> float:
    """How long the others may take once somebody is gone for good."""
    if seen.control_code is None:
        return CONTROL_JUDGES_S if seen.begun else 0.0
    return SPHERES_CUT_OFF_S if seen.control_code or not seen.trained else SPHERES_FOLLOW_S


def _overdue(seen: Seen) -> str:
    if not seen.begun:
        return "no sphere was started [LW410]"
    if seen.control_code is None and seen.all_left:
        return "all spheres have left, as they were asked to; `--resume` with the run's folder goes on [LW415]"
    if seen.control_code is None:
        return "control did not end the run [LW501]"
    return "the spheres did not leave after control had ended [LW410]"


def exit_code(status: str, *, usage: bool = False, signals: tuple[int, ...] = (), serves: bool = False) -> int:
    """0 done or stopped, 1 failed, 2 the user's input is to blame, 130 Ctrl-C.

    serves: control alone is here, for spheres elsewhere. Whoever looks after it in a container ends it as soon as one
    of them has given up: a SIGTERM is then no success, but 143.
    """
    if status == "completed":
        return 0
    if signal.SIGINT in signals:
        return 130
    if status == "stopped":
        return 143 if serves and signal.SIGTERM in signals else 0
    return 2 if usage else 1
