"""Who may say what to control: one pure rule for each role that a key can have.

A run without keys knows no roles: control listens on loopback only, and whoever is on the machine may say anything.
"""

from __future__ import annotations

import enum

from .checkup import CheckUp
from .entrance import Brief, Enrol
from .protocol import Ask, ToControl

WATCHED = ("status", "tree", "health", "stats", "checkpoints", "wait", "watch", "heard")
"""What may be asked without changing anything."""


class Role(enum.Enum):
    """Of a key: a machine's spheres; a person who may order; one who may look; who has nothing but a token."""

    SPHERE = "sphere"
    CLIENT = "client"
    WATCHER = "watcher"
    ENROLLING = "enrolling"


GIVEN = (Role.SPHERE, Role.CLIENT, Role.WATCHER)
"""Roles that a machine can be given."""


def why_not_said(role: Role | None, message: ToControl) -> str:
    """Why who has this role may not say this; empty if it may. None: the run has no keys."""
    if role is None:
        return "" if not isinstance(message, Enrol) else "the run has no keys, so nobody is enrolled [LW543]"
    match message:
        case Enrol():
            may = role is Role.ENROLLING
        case Brief() | CheckUp():  # who is about to enrol may look first
            may = role in (Role.SPHERE, Role.ENROLLING)
        case Ask(what=what):
            may = role is Role.CLIENT or (role is Role.WATCHER and what in WATCHED)
        case _:
            may = role is Role.SPHERE
    if may:
        return ""
    what = f"ask for {message.what[:40]!r}" if isinstance(message, Ask) else f"say {type(message).__name__}"
    return f"a key with the role {role.value} may not {what} [LW543]"
