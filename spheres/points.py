"""The crash points around what a sphere says and around its tails (control/crash.py)."""

from __future__ import annotations

from control.crash import here
from control.protocol import Closed, FromSphere, Ready, Row


def before(message: FromSphere) -> None:
    """It is about to be handed to the link."""
    match message:
        case Ready():
            here("sphere.before_ready")
        case Row():
            here("sphere.before_report")
        case Closed():
            here("sphere.before_closed")
        case _:
            pass


def after(message: FromSphere) -> None:
    """It was handed to the link, which may have said it."""
    match message:
        case Ready():
            here("sphere.after_ready")
        case Row():
            here("sphere.after_report")
        case Closed():
            here("sphere.after_closed")
        case _:
            pass


def before_tail(training: int) -> None:
    """training: the step's micro-batches; none in a closing tail."""
    if training:
        here("sphere.before_tail")
    else:
        here("sphere.before_closing_tail")


def after_tail(training: int) -> None:
    """The tail has come; nothing was changed by it."""
    if training:
        here("sphere.after_tail")
    else:
        here("sphere.after_closing_tail")
