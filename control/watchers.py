"""Clients that wait for something: an order to be in force, or the run's story line by line."""

from __future__ import annotations

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

STATE_EVERY_S = 0.5
"""A watcher hears the status so often, also when nothing happens: what it hears nothing from is dead."""

WITH_STATUS = frozenset({"state", "end", "row"})


@dataclass
class Watchers:
    """Answers and stories wait in `lines` until `flush`, that is until the ledger has what they tell."""

    door: Door
    watching: set[bytes] = field(default_factory=set)
    waiting: dict[tuple[bytes, str], int] = field(default_factory=dict)
    lines: list[Story] = field(default_factory=list)
    told_s: float = float("-inf")

    def add(self, identity: bytes, ask: Ask, status: Status) -> Answer:
        """From now on this client hears the story; its answer holds the status as it is."""
        if len(self.watching) >= MAX_WATCHERS and identity not in self.watching:
            return Answer(
                request=ask.request, ok=False, text=f"{MAX_WATCHERS} clients are watching; no more can [LW507]"
            )
        self.watching.add(identity)
        return Answer(request=ask.request, ok=True, status=status)

    def wait_for(self, identity: bytes, request: str, number: int) -> None:
        """This client wants a second answer when order `number` is in force."""
        if len(self.waiting) < MAX_WAITING:
            self.waiting[(identity, request)] = number

    def forget(self, identity: bytes) -> None:
        """A connection closed; whoever it was watches no more."""
        self.watching.discard(identity)
        self.waiting = {key: number for key, number in self.waiting.items() if key[0] != identity}

    def answer(self, answer_late: Callable[[str, int], Answer | None]) -> None:
        """Second answers that can be given now."""
        for (identity, request), number in list(self.waiting.items()):
            answer = answer_late(request, number)
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
        """Send the lines. Who does not read misses some."""
        lines, self.lines = self.lines, []
        for line in lines:
            frame = encode(line)
            for identity in self.watching:
                self.door.send(identity, frame)
