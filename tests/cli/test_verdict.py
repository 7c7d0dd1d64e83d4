"""What the launcher does next, as a function of what it has seen."""

from __future__ import annotations

import signal

import pytest

from lightwatch.cli.verdict import (
    CONTROL_JUDGES_S,
    SPHERES_CUT_OFF_S,
    SPHERES_FOLLOW_S,
    Do,
    Seen,
    decide,
    exit_code,
)

INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)


@pytest.mark.parametrize(
    ("seen", "now_s", "do"),
    [
        (Seen(), 1e9, Do.WAIT),
        (Seen(signals=(TERM,)), 0, Do.ORDER_STOP),
        (Seen(signals=(TERM,), control_ready=False), 1e9, Do.WAIT),
        (Seen(signals=(TERM,), stop_ordered=True), 1e9, Do.WAIT),
        (Seen(signals=(INT, INT), stop_ordered=True), 0, Do.KILL),
        (Seen(signals=(INT, TERM)), 0, Do.KILL),
        (Seen(control_code=0, spheres_left=0, trouble_at_s=0), 0, Do.FINISH),
        (Seen(control_code=1, spheres_left=0, trouble_at_s=0), 1e9, Do.FINISH),
        (Seen(control_code=0, trouble_at_s=0), SPHERES_FOLLOW_S - 0.1, Do.WAIT),
        (Seen(control_code=0, trouble_at_s=0), SPHERES_FOLLOW_S + 0.1, Do.KILL),
        (Seen(control_code=-9, trouble_at_s=0), SPHERES_CUT_OFF_S + 0.1, Do.KILL),
        (Seen(spheres_left=0, trouble_at_s=0), CONTROL_JUDGES_S - 0.1, Do.WAIT),
        (Seen(spheres_left=0, trouble_at_s=0), CONTROL_JUDGES_S + 0.1, Do.KILL),
        (Seen(spheres_left=0, trouble_at_s=0, begun=False), 0.1, Do.KILL),
        (Seen(control_code=0, trouble_at_s=0, trained=False), SPHERES_CUT_OFF_S + 0.1, Do.KILL),
    ],
)
def test_the_next_move(seen: Seen, now_s: float, do: Do) -> None:
    """Patience ends, signals count, and all gone is the end."""
    assert decide(seen, now_s)[0] is do


def test_a_signal_during_trouble_is_still_an_order() -> None:
    assert decide(Seen(signals=(TERM,), trouble_at_s=0), 0.1)[0] is Do.ORDER_STOP


@pytest.mark.parametrize(
    ("status", "usage", "signals", "code"),
    [
        ("completed", False, (), 0),
        ("completed", False, (INT,), 0),
        ("stopped", False, (), 0),
        ("stopped", False, (TERM,), 0),
        ("stopped", False, (INT,), 130),
        ("failed", False, (INT, INT), 130),
        ("failed", False, (TERM, TERM), 1),
        ("failed", False, (), 1),
        ("failed", True, (), 2),
    ],
)
def test_the_exit_code(status: str, usage: bool, signals: tuple[int, ...], code: int) -> None:
    """0 done or stopped, 1 failed, 2 usage, 130 Ctrl-C."""
    assert exit_code(status, usage=usage, signals=signals) == code


@pytest.mark.parametrize(
    ("status", "signals", "code"), [("completed", (TERM,), 0), ("stopped", (TERM,), 143), ("stopped", (), 0)]
)
def test_control_that_is_ended_before_its_run_is_no_success_for_who_looks_after_it(
    status: str, signals: tuple[int, ...], code: int
) -> None:
    """In a container a SIGTERM comes because a sphere's gave up, or because all are done; an order to stop is none."""
    assert exit_code(status, signals=signals, serves=True) == code
