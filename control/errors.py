"""What can go wrong at control. The type says whose fault it is; the sentence says who, expected, got, what next.

It ends with the code of its kind of trouble, as every sentence of lightwatch does (lightwatch/errors.md).
"""

from __future__ import annotations

import re


class ControlError(Exception):
    """Anything that control or a client of it raises on purpose."""

    @property
    def code(self) -> str:
        """The kind of trouble, such as "LW501": the code with which the sentence ends; empty if there is none."""
        found = re.search(r"\[(LW[0-9]{3})\]\Z", str(self))
        return found[1] if found else ""


class WireError(ControlError):
    """A frame that is not one of our messages: too large, wrong type, unknown tag."""


class TreeError(ControlError, ValueError):
    """A tree that can't be: its text or its paths break a rule."""


class LedgerError(ControlError):
    """The ledger can't be opened, read or written."""


class NoAnswer(ControlError, TimeoutError):
    """Control did not answer within the time given."""


class OrderRefused(ControlError):
    """Control understood the order and will not do it; the text says why."""


class SettingsError(ControlError, ValueError):
    """What control was started with can't be: a folder, a silence, an address."""


class AddressError(ControlError, ValueError):
    """An address that is not tcp://HOST:PORT, or one that may not be bound."""


class KeyFileError(ControlError, ValueError):
    """A key, a token or a name of a machine that can't be used as it is."""


class KeyRefused(ControlError):
    """Control, or whoever listens there, does not take this key, or wants one and was shown none."""


class BindError(ControlError, OSError):
    """The address can't be bound: in use, or not of this machine."""


class IllegalMove(ControlError, RuntimeError):
    """A status may not follow from another, or a fact contradicts the state: our own fault."""


def why_broken(error: Exception) -> str:
    """Why control can't go on."""
    if isinstance(error, LedgerError):
        return f"control can't go on: {error}"
    if isinstance(error, OSError):
        return f"control can't go on: the disk under the run's folder fails: {error} [LW601]"
    return f"control broke: {type(error).__name__}: {error} [LW901]"
