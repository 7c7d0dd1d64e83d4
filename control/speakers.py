"""Which connection speaks for which sphere: one at a time, and another one only once the first is known to be lost."""

from __future__ import annotations

from .admit import Admission, Refusal, admit_hello
from .events import SphereReturned
from .membership import speaks_for_itself
from .protocol import Hello
from .state import State


class Speakers:
    """By the identity that the transport gave each. A sphere that was replaced may speak on; nobody counts it."""

    def __init__(self) -> None:
        self._identity_of: dict[int, bytes] = {}
        self._sphere_of: dict[bytes, int] = {}

    def of(self, sphere: int) -> bytes:
        """Where what is said to this sphere goes."""
        return self._identity_of[sphere]

    def seated(self, identity: bytes, state: State) -> int | None:
        """Who speaks there."""
        sphere = self._sphere_of.get(identity)
        return sphere if sphere in state.seats else None

    def speaker(self, path: str, state: State) -> bytes | None:
        """The connection that stands for whoever is at this path."""
        seat = state.seat_at(path)
        return self._identity_of.get(seat.sphere) if seat is not None and seat.connected else None

    def admission(self, state: State, identity: bytes, hello: Hello, now_s: float, key: str) -> Admission:
        """What a Hello leads to. Over a second connection nobody takes a seat while the first one stands."""
        other = self.seated(identity, state)
        if other is not None and state.seats[other].connected and state.seats[other].path != hello.path:
            taken = state.seats[other].path
            return Refusal(f"sphere {hello.path}: sphere {taken} speaks over this connection; take another [LW405]")
        event = admit_hello(state, hello, now_s, key)
        if isinstance(event, SphereReturned) and self.speaker(hello.path, state) not in (None, identity):
            seat = state.seat_at(hello.path)
            if seat is None or not speaks_for_itself(seat, hello):
                text = f"sphere {hello.path}: it speaks over a connection that stands, this is another [LW405]"
                return Refusal(text)
        return event

    def give(self, sphere: int, identity: bytes) -> None:
        """From now on this connection speaks for the sphere, and the one before for nobody."""
        old = self._identity_of.get(sphere)
        if old is not None:
            self._sphere_of.pop(old, None)
        self._identity_of[sphere] = identity
        self._sphere_of[identity] = sphere
