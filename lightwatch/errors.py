"""What can go wrong in lightwatch. The type says whose fault it is; the sentence says who, expected, got, what next."""

from __future__ import annotations

import os
import traceback

PACKAGES = ("lightwatch", "control", "spheres")


class LightwatchError(Exception):
    """Anything that lightwatch raises on purpose: catch this one to catch them all."""


class ConfigError(LightwatchError, ValueError):
    """A setting that can't be: unknown, of the wrong type, out of range. The user's input, so exit code 2."""


class DataError(LightwatchError, ValueError):
    """Data that can't be trained on: missing, empty, binary, too short. The user's input, so exit code 2."""


class NonFiniteError(LightwatchError, ArithmeticError):
    """NaN or infinity where a number was due; the sentence names the parameter, the micro-batch and the step."""


class StateError(LightwatchError, RuntimeError):
    """A move that is not legal from the present state; nothing has changed."""


class ReductionError(LightwatchError, RuntimeError):
    """The tail of a step is not sound: a micro-batch lost or counted twice. The step is not taken."""


class RunEnded(LightwatchError):
    """Control has ended the run: not an error of this process, only its end.

    status: completed, stopped or failed. reason: control's sentence, empty if all went well.
    """

    def __init__(self, status: str, reason: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"the run has ended: {self.status}" + (f" ({self.reason})" if self.reason else "")


def told(error: BaseException) -> str:
    """Any exception as one sentence for people: ours as it is, the system's by what and which file, others by place."""
    if type(error).__module__.split(".")[0] in PACKAGES:
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}{_place(error)}"


def _place(error: BaseException) -> str:
    """The innermost line of the user's own, where there is one: that is where to look."""
    ours = os.path.dirname(os.path.abspath(__file__))
    beside = tuple(os.path.join(os.path.dirname(ours), name) + os.sep for name in PACKAGES)
    skipped = (*beside, os.path.dirname(os.__file__), "<")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(skipped) and "site-packages" not in f.filename]
    return f" (in {os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno})" if theirs else ""
