"""What a sphere has to say to control, in its order, and what it would say again.

Laws
  1. What is put in is taken out in the same order.
  2. A connection that broke may have lost anything. After the next Welcome the newest of each kind that control waits
     for is said again, and every row above those that control holds, in order and before anything newer.
  3. Rows are kept whether acknowledged or not: an empty ledger asks for all of them. Only their number is limited.

It knows no thread: the link's lock guards it.
"""

from __future__ import annotations

from collections import deque

from control.protocol import Closed, Failed, Proof, Ready, Row, Saving, ToControl
from control.wire import encode

SAID_AGAIN = (Proof, Ready, Saving, Closed, Failed)
ROWS_KEPT = 10_000


class Outbox:
    """Of one sphere, over all its connections."""

    def __init__(self, rows_kept: int = ROWS_KEPT) -> None:
        self._waiting: deque[tuple[type, bytes]] = deque()
        self._said: dict[type, bytes] = {}
        self._rows: deque[tuple[int, bytes]] = deque(maxlen=rows_kept)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: ToControl) -> None:
        """The last to be taken."""
        kind, frame = type(message), encode(message)
        self._waiting.append((kind, frame))
        if isinstance(message, Row):
            self._rows.append((message.version, frame))
        elif kind in SAID_AGAIN:
            self._said[kind] = frame

    def take(self) -> bytes | None:
        """The next frame, or None."""
        return self._waiting.popleft()[1] if self._waiting else None

    def put_back(self, frame: bytes) -> None:
        """One that could not be sent: it is taken next."""
        self._waiting.appendleft((bytes, frame))

    def say_again(self, rows_held: int) -> None:
        """Control has welcomed this sphere back, and holds the rows up to version `rows_held`."""
        proof = [(kind, frame) for kind, frame in self._said.items() if kind is Proof]
        rows = [(Row, frame) for version, frame in self._rows if version > rows_held]
        said = [(kind, frame) for kind, frame in self._said.items() if kind is not Proof]
        again = {id(frame) for _, frame in (*proof, *rows, *said)}
        kept = {id(frame) for _, frame in self._rows}
        rest = [
            (kind, frame)
            for kind, frame in self._waiting
            if kind not in SAID_AGAIN and id(frame) not in again and id(frame) not in kept
        ]
        self._waiting = deque([*proof, *rows, *said, *rest])
