"""Waiting for control: as long as it lives, and for a while after it fell silent, for it may be started anew."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from .link import ControlSilent, Link
from .state import Heard

T = TypeVar("T")
log = logging.getLogger("lightwatch.spheres")

CONTROL_GONE_S = 600.0
"""With control silent for so long, a sphere that needs it gives up."""
TOLD_EVERY_S = 10.0
"""How often a sphere that waits says so in its log."""


def wait_for_control(
    link: Link, pick: Callable[[Heard], T | None], to: str, silence_s: float, gone_s: float = CONTROL_GONE_S
) -> T:
    """As `link.wait`, without a deadline while control ticks: how long anything may take is control's to judge."""
    silent_s = 0.0
    told_s = began_s = time.monotonic()
    while True:
        ticks = link.heard.ticks
        try:
            return link.wait(pick, silence_s, to)
        except ControlSilent as error:
            now_s = time.monotonic()
            silent_s = silent_s + silence_s if link.heard.ticks == ticks else 0.0
            if silent_s >= gone_s:
                raise
            if now_s - told_s >= TOLD_EVERY_S:
                told_s = now_s
                log.warning("still waiting, for %.0f s: %s", now_s - began_s, error)
