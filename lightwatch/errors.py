"""What can go wrong in lightwatch. The type says whose fault it is; the sentence says who, expected, got, what next.

A sentence ends with the code of its kind of trouble: "--steps must be at least 1, got 0 [LW002]". The code is part of
the text, so it crosses what a sentence crosses: processes, the ledger, summary.json, another error that quotes it.
errors.md, beside this file, has a paragraph for each code.
"""

from __future__ import annotations

import errno
import os
import re
import traceback

PACKAGES = ("lightwatch", "control", "spheres")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What the system says of a disk that is full or broken: nobody's input is to blame."""

_CODE = re.compile(r"\[(LW[0-9]{3})\]")


def codes_in(text: str) -> list[str]:
    """The codes that a text holds, each once, in the order in which they come."""
    return list(dict.fromkeys(_CODE.findall(text)))


def code_of(sentence: str) -> str:
    """The code with which a sentence ends; empty if it ends with none."""
    return next((found[1] for found in _CODE.finditer(sentence) if found.end() == len(sentence)), "")


def coded(sentence: str, code: str) -> str:
    """The sentence with a code at its end. One that ends with a code keeps it: whoever wraps it knows no better."""
    return sentence if code_of(sentence) else f"{sentence} [{code}]"


class LightwatchError(Exception):
    """Anything that lightwatch raises on purpose: catch this one to catch them all."""

    @property
    def code(self) -> str:
        """The kind of trouble, such as "LW002"; errors.md says what causes and cures it. Empty if there is none."""
        return code_of(str(self))


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

    status: completed, stopped or failed. reason: control's sentence, empty if all went well; its code is the error's.
    """

    def __init__(self, status: str, reason: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"the run has ended ({self.status})" + (f": {self.reason}" if self.reason else "")


def told(error: BaseException) -> str:
    """Any exception as one sentence for people: ours as it is, the system's by what and which file, others by place.

    It ends with a code: its own, or one that says whether disk, memory, a file, the user's code or ours is at fault.
    """
    if type(error).__module__.split(".")[0] in PACKAGES:
        return coded(str(error), "LW901")
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return coded(what, "LW601" if error.errno in DISK_ERRORS else "LW604")
    place = _place(error)
    what = f"{type(error).__name__}: {error}{place}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in what:
        return coded(what, "LW703")
    return coded(what, "LW801" if place else "LW901")


def _place(error: BaseException) -> str:
    """The innermost line of the user's own, where there is one: that is where to look."""
    ours = os.path.dirname(os.path.abspath(__file__))
    beside = tuple(os.path.join(os.path.dirname(ours), name) + os.sep for name in PACKAGES)
    skipped = (*beside, os.path.dirname(os.__file__), "<")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(skipped) and "site-packages" not in f.filename]
    return f" (in {os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno})" if theirs else ""
