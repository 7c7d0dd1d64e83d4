"""What control says, kept until the facts behind it are in the ledger."""

from __future__ import annotations

from typing import TypeAlias

from . import points
from .checkup import CheckedUp
from .door import Door
from .entrance import Briefed
from .protocol import Answer, ToSphere
from .wire import encode

Said: TypeAlias = ToSphere | Answer | Briefed | CheckedUp


class Outgoing:
    """In the order in which it was put in, over one door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._waiting: list[tuple[bytes, Said]] = []

    def put(self, identity: bytes, message: Said) -> None:
        self._waiting.append((identity, message))

    def send(self) -> None:
        """All that waits. Never blocks: who reads nothing, or is gone, does not hear it."""
        waiting, self._waiting = self._waiting, []
        frames: dict[int, bytes] = {}  # what is said to many is one object, and encoded once
        for identity, message in waiting:
            points.before(message)
            frame = frames.get(id(message)) or frames.setdefault(id(message), encode(message))
            self._door.send(identity, frame)
            points.after(message)
