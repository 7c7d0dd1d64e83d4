"""Clients that wait for something: an order to be obeyed, a state, or the run's story line by line.

A story is sent as far as its reader follows, and a little ahead; what it is too slow for is left out, and it is told
how many lines that were. So whoever does not read costs control no memory, and nobody waits for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from .door import Door
from .protocol import Answer, Ask
from .protocol import Event as Story
from .report import status_of
from .state import State
from .status import Status
from .wire import encode

MAX_WATCHERS = 256
MAX_WAITING = 4_096

AHEAD, AHEAD_BYTES = 2_000, 4 << 20
"""So many lines, and bytes, are under way to one reader at most; one line always may be."""

STATE_EVERY_S = 0.5
"""A watcher hears the status so often, also when nothing happens: what it hears nothing from is dead."""

WITH_STATUS = frozenset({"state", "end"})


@dataclass
class Reader:
    """How far one has followed. ahead: the sizes of the lines that it was sent and has not said to have read."""

    ahead: deque[int] = field(default_factory=deque)
    bytes_ahead: int = 0
    read: int = 0
    lost: int = 0

    def heard(self, count: int) -> None:
        """It has read so many lines, of all that it was ever sent."""
        while self.ahead and self.read < count:
            self.bytes_ahead -= self.ahead.popleft()
            self.read += 1

    @property
    def follows(self) -> bool:
        """Whether it is to be sent another line."""
        return len(self.ahead) < AHEAD and self.bytes_ahead < AHEAD_BYTES

    def sent(self, frame: bytes) -> None:
        self.ahead.append(len(frame))
        self.bytes_ahead += len(frame)


@dataclass
class Watchers:
    """Answers and stories wait in `lines` until `flush`, that is until the ledger has what they tell."""

    door: Door
    watching: dict[bytes, Reader] = field(default_factory=dict)
    waiting: dict[tuple[bytes, str], tuple[Ask, int]] = field(default_factory=dict)
    lines: list[Story] = field(default_factory=list)
    told_s: float = float("-inf")

    def add(self, identity: bytes, ask: Ask, status: Status) -> Answer:
        """From now on this client hears the story; its answer holds the status as it is."""
        if len(self.watching) >= MAX_WATCHERS and identity not in self.watching:
            return Answer(
                request=ask.request, ok=False, text=f"{MAX_WATCHERS} clients are watching; no more can [LW507]"
            )
        self.watching.setdefault(identity, Reader())
        return Answer(request=ask.request, ok=True, status=status)

    def heard(self, identity: bytes, count: float | None) -> None:
        """How many lines of the story this client has read so far."""
        reader = self.watching.get(identity)
        if reader is not None and count is not None and math.isfinite(count):
            reader.heard(int(count))

    def wait_for(self, identity: bytes, ask: Ask, number: int) -> None:
        """This client wants an answer when order `number` is obeyed, or what it asks to wait for has come."""
        if len(self.waiting) < MAX_WAITING:
            self.waiting[(identity, ask.request)] = ask, number

    def forget(self, identity: bytes) -> None:
        """A connection closed; whoever it was watches no more."""
        self.watching.pop(identity, None)
        self.waiting = {key: waits for key, waits in self.waiting.items() if key[0] != identity}

    def answer(self, answer_late: Callable[[Ask, int], Answer | None]) -> None:
        """Answers that can be given now."""
        for (identity, request), (ask, number) in list(self.waiting.items()):
            answer = answer_late(ask, number)
            if answer is not None:
                del self.waiting[(identity, request)]
                self.door.send(identity, encode(answer))

    def tell(self, story: Story, state: State, now_s: float) -> None:
        """One line to all who watch, with the status where it may have changed much."""
        if not self.watching:
            return
        if story.kind in WITH_STATUS:
            story = msgspec.structs.replace(story, status=status_of(state, now_s))
        self.lines.append(story)

    def tell_state(self, state: State, now_s: float) -> None:
        """The status now and then, so that a live view moves and a dead control is noticed."""
        if self.watching and now_s - self.told_s >= STATE_EVERY_S:
            self.told_s = now_s
            self.tell(Story(kind="state", text=state.status.value), state, now_s)
            self.flush()

    def flush(self) -> None:
        """Send the lines, as far as each reader follows."""
        lines, self.lines = self.lines, []
        for line in lines:
            frame = encode(line)
            for identity, reader in self.watching.items():
                self._send(identity, reader, frame)

    def _send(self, identity: bytes, reader: Reader, frame: bytes) -> None:
        if not reader.follows:
            reader.lost += 1
            return
        if reader.lost:
            text = f"{reader.lost} lines are left out: they came faster than they were read"
            notice = encode(Story(kind="lost", text=text, lost=reader.lost))
            if not self.door.send(identity, notice):
                reader.lost += 1
                return
            reader.sent(notice)
            reader.lost = 0
        if self.door.send(identity, frame):
            reader.sent(frame)
        else:
            reader.lost += 1
