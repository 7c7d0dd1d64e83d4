"""What can go wrong in lightwatch. The type says whose fault it is; the sentence says who, expected, got, what next."""

from __future__ import annotations


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
