"""What is told about training: the state a user reads, and the report of one version. Standard library only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingState:
    """Where training stands. A copy: it doesn't change under its reader.

    step: updates made so far, which is the version of the weights. loss: the weighted mean over all micro-batches of
    the last update, in nats per target. lr: what that update used. grad_norm: before clipping. None before the first.
    """

    step: int = 0
    epoch: int = 0
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True)
class StepReport:
    """Version `version` exists; these numbers made it. Every sphere has the same but for `seconds` and `own_…`.

    weight: targets (or samples) averaged over. check: sum over the weights' bits. digest: sha256 where it was taken.
    suspect: whose flag a repetition did not confirm, in words; suspects: the same by number. how: by which way this
    sphere came to hold it: here (it began with it), tail, record, fetch or load. trouble: why the step was skipped, in
    a sentence. clip_ratio: the factor that clipping put on the gradient. slowest: the member that finished its own
    micro-batches last. seconds: data, compute, wait (until the slowest had finished), reduce, update, eval, and step
    for the whole. own_…: what this sphere computed itself, repeated micro-batches too.
    """

    version: int
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    weight: int = 0
    samples: int = 0
    attempts: int = 1
    skipped: bool = False
    in_force: int = 0
    check: int | None = None
    digest: str | None = None
    epoch: int = 0
    eval_loss: float | None = None
    suspect: str | None = None
    suspects: tuple[int, ...] = ()
    how: str = "tail"
    trouble: str | None = None
    clip_ratio: float | None = None
    slowest: int | None = None
    own_units: int = 0
    own_samples: int = 0
    own_weight: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    lineage: int = 0


@dataclass(frozen=True)
class Closing:
    """The last version, agreed by a tail of its own. reason: completed or stopped."""

    version: int
    digest: str
    reason: str
    eval_loss: float | None = None
    eval_weight: int = 0
    micro_batches: int = 0
    busy_s: float = 0.0


class Stopwatch:
    """Seconds by what they went to; `lap` books the time since the last mark under a name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._mark = self._start = time.perf_counter()

    def mark(self) -> None:
        self._mark = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._mark
        self._mark = now

    def split(self, first: str, seconds: float, rest: str) -> None:
        """As `lap`, booking at most so many seconds under `first` and what remains under `rest`."""
        now = time.perf_counter()
        lap_s = now - self._mark
        first_s = min(max(seconds, 0.0), lap_s)
        for name, spent_s in ((first, first_s), (rest, lap_s - first_s)):
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s
        self._mark = now

    def of(self, *names: str) -> float:
        """What was booked under these names."""
        return sum(self.seconds.get(name, 0.0) for name in names)

    def total(self) -> dict[str, float]:
        """All laps, and `step` for the whole time since this watch was made."""
        return {**self.seconds, "step": time.perf_counter() - self._start}
