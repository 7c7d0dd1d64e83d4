"""What control answers to machines about the run, before they take part: what it is, and how they would fit."""

from __future__ import annotations

import platform
import time
from functools import cache
from importlib import metadata
from pathlib import Path

from .brief import briefed
from .checkup import CheckedUp, CheckUp
from .doctors import Doctors, neighbours
from .entrance import Brief, Briefed
from .protocol import Refused
from .state import State

DISTRIBUTIONS = ("lightwatch", "torch")


class Reception:
    """Of one control. Changes nothing of the run."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self._doctors = Doctors()

    def answer(self, message: Brief | CheckUp, state: State, now_s: float) -> Briefed | CheckedUp | Refused:
        """now_s: of control's own clock; the wall clock is read here, for who wants to compare."""
        if isinstance(message, Brief):
            return briefed(self._folder, self._run_id)
        others = self._doctors.heard(message.card, now_s)
        if isinstance(others, Refused):
            return others
        return CheckedUp(
            versions=versions(),
            clock_s=time.time(),
            fingerprint=state.fingerprint or state.former,
            neighbours=neighbours(state),
            doctors=others,
        )


@cache
def versions() -> dict[str, str]:
    """Of what is installed in this process' environment, and Python's own. Imports none of it."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found
