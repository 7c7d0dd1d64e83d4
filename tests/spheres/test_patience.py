"""How long control is waited for."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from control.protocol import Hello, Tick
from spheres import patience
from spheres.link import ControlSilent, Link
from spheres.patience import wait_for_control
from tests.spheres.fake_control import FakeControl

HELLO = Hello(run_id="r", path="a/0", pid=1, host="h")


def test_a_control_that_ticks_is_waited_for_and_one_that_is_silent_is_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each tick begins the silence anew; it is said in the log that, and for what, one waits."""
    monkeypatch.setattr(patience, "TOLD_EVERY_S", 0.0)
    with FakeControl() as control:
        link = Link(control.address, HELLO, 1.0)
        link.open(5.0)
        looked: list[int] = []

        def pick(heard: Any) -> bool | None:
            looked.append(heard.ticks)
            if len(looked) < 40:  # for far longer than the silence that is allowed
                control.say(Tick(incarnation=1))
                return None
            return True

        assert wait_for_control(link, pick, "to that", 0.2, gone_s=0.6)
        with caplog.at_level(logging.WARNING), pytest.raises(ControlSilent, match="did not answer to this"):
            wait_for_control(link, lambda heard: None, "to this", 0.2, gone_s=0.6)
        assert sum("still waiting" in each.message and "to this" in each.message for each in caplog.records) >= 2
        link.close()
