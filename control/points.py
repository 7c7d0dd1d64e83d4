"""The crash points around what control says to spheres (crash.py): what is in the ledger then, and who was told."""

from __future__ import annotations

from .checkup import CheckedUp
from .crash import here
from .entrance import Briefed
from .protocol import Answer, End, Go, SaveOver, Seal, ToSphere, View


def before(message: ToSphere | Answer | Briefed | CheckedUp) -> None:
    """It is committed and about to be sent."""
    match message:
        case View():
            here("control.before_view")
        case Go():
            here("control.before_go")
        case Seal():
            here("control.before_seal")
        case SaveOver(kept=True):
            here("control.checkpoint_saved")
        case End():
            here("control.before_end")
        case _:
            pass


def after(message: ToSphere | Answer | Briefed | CheckedUp) -> None:
    """One sphere was told, and the next was not."""
    match message:
        case View():
            here("control.after_view")
        case Go():
            here("control.after_go")
        case End():
            here("control.after_end")
        case _:
            pass
