"""Which buckets may leave for the tree while the last own micro-batch is still in its backward.

Laws
  1. Buckets leave in index order, on every sphere: gloo pairs collectives by order, and two of the same size that are
     started in opposite order are summed into each other without an error.
  2. A bucket leaves early once each of its parameters has fired as often as it ever did in one micro-batch, and at
     least once: a hook may fire twice (reentrant checkpointing) or never (a branch not taken). A parameter that has
     never fired holds its bucket, and those after it, to the end of the backward: overlap is lost there, never a bit.
  3. A gradient that comes after its bucket has left is in the own sums and not in what was sent. That is `late`: all
     spheres learn it in the tail and repeat the step without leaving early.
"""

from __future__ import annotations

from collections.abc import Callable

from .flat import FlatLayout


class Departures:
    """The buckets of one position, from first to last. leave: called with a bucket's index, once for each."""

    def __init__(self, layout: FlatLayout, leave: Callable[[int], None]) -> None:
        self._leave = leave
        self._bucket_of = [slot.bucket for slot in layout.slots]
        self._sizes = [self._bucket_of.count(bucket) for bucket in range(len(layout.buckets))]
        self._most = [1] * len(layout.slots)
        self._next = len(self._sizes)
        self._open = False
        self._missing: list[int] = []
        self.late = False

    def begin(self) -> None:
        """A new position: nothing has left."""
        self._next, self._open, self.late = 0, False, False

    def open(self) -> None:
        """The last own micro-batch begins: buckets leave as soon as they are complete."""
        self._open, self._missing = True, list(self._sizes)

    def fired(self, parameter: int, times: int) -> None:
        """The gradient of this parameter, by number, was added; for the so-manieth time in this micro-batch."""
        if times > self._most[parameter]:
            self._most[parameter] = times
            self.late = self.late or (self._open and self._bucket_of[parameter] < self._next)
        elif times == self._most[parameter] and self._open:
            self._missing[self._bucket_of[parameter]] -= 1
            while self._next < len(self._missing) and self._missing[self._next] <= 0:
                self._send()

    def finish(self) -> None:
        """The own sums are complete: what is still here leaves."""
        self._open = False
        while self._next < len(self._sizes):
            self._send()

    def _send(self) -> None:
        self._next += 1
        self._leave(self._next - 1)
