"""What clients ask for waits its turn here, while spheres and a stop are heard at once.

Laws
  1. A stop overtakes whatever is queued, also what the same client asked before: nothing else matters any more.
  2. A turn answers so many and no more, then control looks again for what may not wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .admit import ORDERS
from .door import Door
from .protocol import Answer, Ask, FromSphere
from .questions import answer
from .report import answer_late, status_of
from .state import State
from .watchers import Watchers

AT_ONCE = 256
"""Answered in one turn."""
MOST = 8_192
"""Kept at most; who asks again each second is heard later."""


def is_urgent(message: FromSphere | Ask) -> bool:
    """Whether it is heard before anything that waits: a stop, and all that spheres say, who may have failed."""
    return not isinstance(message, Ask) or message.what == "stop"


class Clients:
    """Those who ask, in the order in which they did, and those who watch."""

    def __init__(self, door: Door) -> None:
        self.watchers = Watchers(door)
        self._queue: deque[tuple[bytes, Ask, bool]] = deque()

    def __len__(self) -> int:
        """How much waits for its turn."""
        return len(self._queue)

    def queue(self, identity: bytes, ask: Ask, live: bool) -> None:
        """To be taken when its turn comes. live: as in `Arrived`."""
        if len(self._queue) < MOST:
            self._queue.append((identity, ask, live))

    def take(self) -> Iterator[tuple[bytes, Ask, bool]]:
        """The oldest, AT_ONCE of them."""
        for _ in range(min(len(self._queue), AT_ONCE)):
            yield self._queue.popleft()

    def left(self, identity: bytes) -> None:
        """Its connection has closed: what it ordered still counts."""
        self.watchers.forget(identity)
        if self._queue:
            self._queue = deque((who, ask, live and who != identity) for who, ask, live in self._queue)

    def ordered(self, identity: bytes, ask: Ask, given: Answer) -> Answer:
        """The answer to an order; another one follows when it is obeyed."""
        if given.ok and given.number is not None and given.version is None:
            self.watchers.wait_for(identity, ask, given.number)
        return given

    def asked(self, identity: bytes, ask: Ask, state: State, now_s: float) -> Answer | None:
        """The answer to a question, if it has one now."""
        if ask.what == "heard":
            self.watchers.heard(identity, ask.value)
            return None
        if ask.what == "watch":
            return self.watchers.add(identity, ask, status_of(state, now_s))
        said = answer(state, ask, now_s)
        if said is None:
            self.watchers.wait_for(identity, ask, 0)
        return said

    def answer(self, state: State, now_s: float) -> None:
        """Whoever waits for what has come; and the status to those who watch."""
        self.watchers.answer(
            lambda ask, number: answer_late(state, ask, number) if ask.what in ORDERS else answer(state, ask, now_s)
        )
        self.watchers.tell_state(state, now_s)
