"""What is known of a step while it is being taken, over all its attempts."""

from __future__ import annotations

from .metrics import Stopwatch
from .replica import Applied
from .tail import Outcome, Tail
from .trace import Trace


class Step:
    """busy_s: from the last tail until the own sums were complete. slowest: the member who was busy longest.

    units, samples, own_weight: training micro-batches computed here, what they held. loss, weight: of the whole step.
    applied: None if no weight changed. trouble: why it is skipped. cleared: whose flags a repetition did not confirm.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        self.watch = Stopwatch()
        self.trace = trace
        self.busy_s = 0.0
        self.slowest: int | None = None
        self.units = self.samples = self.own_weight = 0
        self.loss: float | None = None
        self.weight = 0
        self.applied: Applied | None = None
        self.trouble: str | None = None
        self.cleared: tuple[int, ...] = ()

    def lap(self, name: str, unit: int | None = None) -> None:
        """Book the time since the last lap under a name; a profile shows it too, as that of this micro-batch."""
        self.watch.lap(name)
        if self.trace is not None:
            self.trace.lap(name, unit)

    def count(self, outcome: Outcome) -> None:
        """One more training micro-batch of this sphere's own."""
        self.units += 1
        self.samples += outcome.samples
        self.own_weight += outcome.weight

    def waited(self, tail: Tail) -> None:
        """Book the time since the own sums were complete: waiting until the slowest sphere's were, then reducing."""
        if self.trace is not None:
            self.trace.lap("tail")
        if tail.members["busy_us"].size == 1:
            self.watch.lap("reduce")
            return
        self.slowest, busy_s = tail.slowest()
        self.watch.split("wait", busy_s - self.busy_s, "reduce")
