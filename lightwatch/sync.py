"""The seam between one trainer and its tree.

The trainer knows no network. It asks a `Sync` which micro-batches are its own, hands it buckets and the tail to be
summed, and learns what was ordered. `Alone` is the trivial form: one process, nothing to sum, the same code path.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn

from .config import TrainingConfig
from .device import CPU
from .errors import LightwatchError, ReductionError, StateError
from .metrics import Closing, StepReport
from .saver import Home, Single, Writers
from .snapshot import Snapshot
from .tail import Tail
from .trace import Trace


class Position(NamedTuple):
    """Where a sphere stands: a restore opens a lineage, a closing tail agrees on a version without a step, an attempt
    repeats a step."""

    lineage: int = 0
    version: int = 0
    closing: int = 0
    attempt: int = 0


@dataclass(frozen=True)
class Wanted:
    """Orders are one numbered wanted state: number n holds all that orders 1..n asked for.

    learning_rate: the base rate that the schedule multiplies; None: the config's. saves: checkpoints ordered so far;
    save_as: the name for the newest of them, empty for its version's.
    """

    number: int = 0
    paused: bool = False
    stopped: bool = False
    learning_rate: float | None = None
    saves: int = 0
    save_as: str = ""


class How(enum.Enum):
    """How this sphere reaches the position at which a generation begins: it stands there; it decides from the record of
    the tail that it missed; it takes a peer's state; it loads a checkpoint."""

    HERE = "here"
    RECORD = "record"
    FETCH = "fetch"
    LOAD = "load"


@dataclass(frozen=True)
class Transition:
    """The last change of position, for a sphere that missed its tail: with the sums it decides the same from it.

    tail: the summed vector, int64 little-endian. paths: of the members that made it, by rank.
    """

    start: Position
    end: Position
    tail: bytes
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What a sphere holds when a generation begins. snapshot: the whole of it, taken when it is asked for."""

    position: Position
    digest: str | None
    done: tuple[int, ...] = ()
    has_sums: bool = False
    in_force: int = 0
    record: Transition | None = None
    snapshot: Callable[[], Snapshot] = field(default=lambda: Snapshot({}), compare=False)


@dataclass(frozen=True)
class Start:
    """How a generation begins for this sphere. keep: the own sums go on. in_force: the newest order that holds from the
    start; up to version `known`, a replay, `in_force_at` (version -> order from there on) alone says which do. digest:
    of the weights at `position`. save: the next version is to be saved, under this name; empty: its own; None: not."""

    position: Position
    how: How = How.HERE
    keep: bool = False
    record: Transition | None = None
    in_force: int = 0
    in_force_at: dict[int, int] = field(default_factory=dict)
    known: int = -1
    digest: str | None = None
    save: str | None = None


class Length(NamedTuple):
    """How long a training is: it ends at version `max_steps`; an epoch is `steps_per_epoch` of them. And how large one
    gradient is."""

    max_steps: int
    steps_per_epoch: int
    gradient_bytes: int = 0


class Sick(LightwatchError):
    """This process' own memory can't be trusted: it must leave, and a successor takes a peer's state."""


class GenerationEnded(Exception):
    """The tree is being formed anew: nothing has changed here; answer the roll call and go on."""


class Sync(Protocol):
    """What a trainer needs of its tree. Calls come from the trainer's thread, in the order of a step."""

    first: bool
    """This process speaks for the run: it logs, prints and writes the model."""
    alone: bool
    listens: bool
    """Whether anybody reads the reports."""
    members: int
    rank: int
    path: str
    """Where this process stands in the tree."""
    paths: tuple[str, ...]
    """Those of all members of this generation, by rank; empty where nobody could miss a tail."""
    local_rank: int
    """Which of its machine's processes this is, from 0: where there are several GPUs, the number of its own."""
    device: torch.device
    """Set by the trainer: where it computes."""
    trace: Trace | None
    """Set by whoever wants a profile: takes the spans of every step from the next one on."""
    finish: Callable[[], object] | None
    """Set by the trainer: to be called when the script has ended, and again whenever a View comes while this sphere
    waits for the run's end. Then it stands where the last version is agreed, and `closed` was called: the first time it
    ends a training that the script has not ended; later it answers the roll call (`begin`) and is a holder in the new
    generation, which closes nothing twice."""
    kept: Callable[[Path], object] | None
    """Set by the trainer: told of the file that holds the last version, on the sphere that wrote it."""
    home: Home
    """Where the run's checkpoints lie, and what they say of it."""

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        """Prove that this sphere computes what the others compute. A refusal is raised where the roll call is waited
        for."""

    def begin(self, standing: Standing) -> Start:
        """Take part in the roll call. Blocks until the generation has begun.

        `standing.snapshot` may be called until the first tail of that generation. It gives the state as it is when
        asked for: who begins HERE has that of the start at once, others once they have come there.
        """

    def fetch(self) -> Snapshot:
        """The state that `begin` said to FETCH or LOAD, whole and verified, in memory of its own.

        Blocks; the others compute meanwhile. Raises GenerationEnded (a donor died, a file can't be read): nothing has
        changed here.
        """

    def deal(self, position: Position, training: int, evaluation: int) -> Sequence[int]:
        """The units of this position that are this sphere's: training 0.., then evaluation training.. .

        Whatever was begun to be summed before is forgotten.
        """

    def reduce(self, bucket: Tensor) -> None:
        """Begin to sum this bucket over all spheres. Doesn't wait, raises nothing: it is called from within a backward.

        Called for every bucket of a position in index order; the caller leaves the bucket alone until `reduced`.
        """

    def reduced(self) -> list[Tensor]:
        """The sums of all buckets of this position, never in the caller's memory unless there is nobody else.

        Blocks until they have arrived. Raises GenerationEnded.
        """

    def tail(self, tail: Tail, position: Position) -> Tail:
        """Sum the tail over all spheres, this one's member slots filled in. Raises GenerationEnded."""

    def wanted(self, number: int) -> Wanted:
        """The wanted state with this number."""

    def next_order(self, in_force: Wanted) -> Wanted:
        """Block until there is an order after this one. While paused orders take effect on arrival, in number order."""

    def writers(self, position: Position, saves: int) -> Writers | None:
        """Who writes the checkpoint that is due here; None if this process is none of them. saves: ordered so far."""

    def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
        """Say where this sphere is (phase: computing, reducing, paused): cheap, never blocks."""

    def report(self, report: StepReport) -> None:
        """A version was made. Never blocks."""

    def name_of(self, rank: int) -> str:
        """The member with this number, as people call it."""

    def unsound(self, reason: str, odd: int | None = None) -> NoReturn:
        """Own sums or the tail were not sound: nothing has changed here.

        odd: the member by whom it was, if that is known. It raises Sick there, and GenerationEnded on all others; alone
        ReductionError.
        """

    def closed(self, closing: Closing, model: nn.Module) -> None:
        """A training has ended; its last version, which `model` holds, is agreed. Another may follow."""


class Alone:
    """One process: all units are its own, the sums what it added. Orders come from other threads or callbacks."""

    first = True
    alone = True
    members = 1
    rank = 0
    local_rank = 0
    device = CPU

    def __init__(self, on_report: Callable[[StepReport], None] | None = None) -> None:
        self._on_report = on_report
        self.listens = on_report is not None
        self.path = "0"
        self.paths: tuple[str, ...] = ()
        self.trace: Trace | None = None
        self.home = Home()
        self.lineage = 0
        """Of what is restored: at least this one."""
        self._orders = [Wanted()]
        self._changed = threading.Condition()
        self.closing: Closing | None = None
        self.finish: Callable[[], object] | None = None
        self.kept: Callable[[Path], object] | None = None
        self._buckets: list[Tensor] = []

    def order(self, **changes: object) -> int:
        """Issue the next wanted state; in force from the step after the one that is now being computed."""
        with self._changed:
            last = self._orders[-1]
            self._orders.append(replace(last, number=last.number + 1, **changes))  # type: ignore[arg-type]
            self._changed.notify_all()
            return last.number + 1

    def take(self, wanted: Wanted) -> None:
        """Go on with what was ordered in a training that was saved; a pause or a stop that held there is over."""
        with self._changed:
            still = replace(wanted, paused=False, stopped=False)
            self._orders = [Wanted(number) for number in range(wanted.number)] + [still]

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        """Nobody else has to agree."""

    def begin(self, standing: Standing) -> Start:
        return Start(standing.position)

    def fetch(self) -> Snapshot:
        raise StateError("one process has nobody to fetch a state from [LW901]")

    def deal(self, position: Position, training: int, evaluation: int) -> Sequence[int]:
        self._buckets = []
        return range(training + evaluation)

    def reduce(self, bucket: Tensor) -> None:
        self._buckets.append(bucket)

    def reduced(self) -> list[Tensor]:
        return self._buckets

    def tail(self, tail: Tail, position: Position) -> Tail:
        tail.members["seen"][0] = self._orders[-1].number
        return tail

    def wanted(self, number: int) -> Wanted:
        return self._orders[number]

    def next_order(self, in_force: Wanted) -> Wanted:
        with self._changed:
            while self._orders[-1].number == in_force.number:
                self._changed.wait(1.0)  # a signal handler's order may fall just before the wait
            return self._orders[in_force.number + 1]

    def writers(self, position: Position, saves: int) -> Writers | None:
        return Single()

    def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
        """Nobody asks."""

    def report(self, report: StepReport) -> None:
        if self._on_report:
            self._on_report(report)

    def name_of(self, rank: int) -> str:
        return "this process"

    def unsound(self, reason: str, odd: int | None = None) -> NoReturn:
        raise ReductionError(f"the step is not taken, this process's memory can't be trusted: {reason}")

    def closed(self, closing: Closing, model: nn.Module) -> None:
        self.closing = closing


current: Sync | None = None
"""Set by the worker before a user's script runs: its Trainer then trains on the tree. None: alone."""
