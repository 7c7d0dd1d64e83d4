"""A tree whose generations end and begin anew, without control, sockets or gloo: spheres as threads that sum in memory.

A `Break` ends a generation at a chosen point: everybody, or only some, miss the result of one exchange; spheres die
there, others come. The plan of the next generation is the one that control makes, in twenty lines. Dropout must be off,
for threads share torch's generator.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from lightwatch.metrics import Closing, StepReport
from lightwatch.snapshot import Snapshot
from lightwatch.sync import Alone, GenerationEnded, How, Position, Sick, Standing, Start, Wanted
from lightwatch.tail import Tail
from lightwatch.trainer import Trainer
from spheres.state import share_out

HANG_S = 60.0
Trainers = dict[str, Trainer]


class Killed(BaseException):
    """What a sphere that dies raises, past everything."""


@dataclass(frozen=True)
class Break:
    """A generation ends. at: (version, closing, attempt). where: in which exchange, "reduced" or "tail"; or after the
    first micro-batch of `by` ("computing"), in `by`'s fetch ("fetch"), when `by` waits for the end ("left"), whenever
    `by` has raised ("raised").

    missed: who does not get the result of that exchange; the others do. dies: who is gone then; joins: who comes.
    """

    at: tuple[int, int, int]
    where: str
    missed: frozenset[str] = frozenset()
    dies: frozenset[str] = frozenset()
    joins: tuple[str, ...] = ()
    by: str = ""


@dataclass
class Tree:
    """What control and the wires would be. rows: all reports, by sphere. gone: who raised what."""

    founders: Sequence[str]
    breaks: list[Break]
    orders: list[tuple[int, Wanted]]
    changed: threading.Condition = field(default_factory=threading.Condition)
    generation: int = 0
    broken: bool = False
    over: bool = False
    members: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    holders: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    standings: dict[str, Standing] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    fetched: Snapshot = field(default_factory=lambda: Snapshot({}))
    v0: Snapshot | None = None
    rooms: dict[Any, dict[str, Any]] = field(default_factory=dict)
    sums: dict[Any, tuple[Any, frozenset[str]]] = field(default_factory=dict)
    rows: dict[str, list[StepReport]] = field(default_factory=dict)
    closings: dict[str, Closing] = field(default_factory=dict)
    gone: dict[str, BaseException] = field(default_factory=dict)
    come: Callable[[str], object] = lambda path: None
    in_force_at: dict[int, int] = field(default_factory=dict)
    newest: int = 0
    """The highest version that was ever made."""

    def end(self, each: Break) -> None:
        """Under the lock: this generation is over, and those who live are to answer the roll call."""
        if each in self.breaks:
            self.breaks.remove(each)
        self.dead |= each.dies
        self.expected = (set(self.members) - self.dead) | set(each.joins)
        self.broken = True
        self.left.clear()
        for path in each.joins:
            self.come(path)
        self.changed.notify_all()

    def lose(self, path: str, error: BaseException) -> None:
        """A sphere has raised: it is gone, and the others go on without it."""
        with self.changed:
            self.gone[path] = error
            self.dead.add(path)
            self.holders.discard(path)
            if path in self.members and not self.broken:
                self.end(Break((0, 0, 0), ""))
            self.expected.discard(path)
            each = next((b for b in self.breaks if (b.where, b.by) == ("raised", path)), None)
            if each:
                self.breaks.remove(each)
            for successor in each.joins if each else ():
                self.expected.add(successor)
                self.come(successor)
            self._plan_if_complete()
            self.changed.notify_all()

    def find(self, where: str, position: Position, by: str = "") -> Break | None:
        """Under the lock: what ends this generation here and now."""
        if self.broken:
            return None
        at = (position.version, position.closing, position.attempt)
        return next((b for b in self.breaks if (b.where, b.at, b.by) == (where, at, by)), None)

    def go_on(self, path: str) -> None:
        """Under the lock: raise if this sphere, or its generation, has no business any more."""
        if path in self.dead:
            raise Killed
        if self.broken:
            raise GenerationEnded

    def wait(self, path: str, until: Callable[[], bool]) -> None:
        while not until():
            if path in self.dead:
                raise Killed
            if not self.changed.wait(HANG_S):
                raise AssertionError(f"{path} waits in vain")

    def sum(self, path: str, where: str, position: Position, value: list[Tensor]) -> list[Tensor]:
        """The sum over all members, for all who do not miss it."""
        key = (self.generation, where, position)
        with self.changed:
            self.go_on(path)
            room = self.rooms.setdefault(key, {})
            room[path] = value
            if len(room) == len(self.members):
                total = [torch.stack(parts).sum(0, dtype=parts[0].dtype) for parts in zip(*room.values(), strict=True)]
                each = self.find(where, position)
                self.sums[key] = total, each.missed | each.dies if each else frozenset()
                if each:
                    self.end(each)
                self.changed.notify_all()
            self.wait(path, lambda: self.broken or key in self.sums)
            if key not in self.sums or path in self.sums[key][1]:
                self.go_on(path)
            return [part.clone() for part in self.sums[key][0]]

    def roll_call(self, path: str, standing: Standing) -> Start:
        with self.changed:
            if path in self.dead:
                raise Killed
            self.standings[path] = standing
            self.starts.pop(path, None)
            self._plan_if_complete()
            self.wait(path, lambda: path in self.starts)
            return self.starts.pop(path)

    def _plan_if_complete(self) -> None:
        if self.expected and set(self.standings) >= self.expected:
            self._plan({path: self.standings[path] for path in sorted(self.expected)})
            self.changed.notify_all()

    def _plan(self, here: dict[str, Standing]) -> None:
        """The next generation: its start for each, and what of the sums is kept."""
        line = {path: standing for path, standing in here.items() if path in self.holders}
        if not self.generation:
            line = here
        self.kept = set()
        known: dict[str, Any] = {"known": self.newest, "in_force_at": dict(self.in_force_at)}
        if line:
            donor = max(line.values(), key=lambda standing: standing.position)
            self.fetched, position = _sent(donor.snapshot()), donor.position
            in_force = max(s.in_force for s in line.values() if s.position == position)
            for path, standing in here.items():
                how, keep = self._how(standing if path in line else None, donor), False
                if how is How.HERE and not self.kept & set(standing.done):
                    keep, self.kept = True, self.kept | set(standing.done)
                self.starts[path] = Start(position, how, keep, donor.record, in_force, digest=donor.digest, **known)
        else:
            assert self.v0 is not None, "nobody holds a state, and there is no v0"
            self.fetched = self.v0
            self.starts = {path: Start(Position(), How.LOAD, digest=self.v0.digest(), **known) for path in here}
        if self.v0 is None:
            self.v0 = replace(self.fetched, tensors={n: t.clone() for n, t in self.fetched.tensors.items()})
        self.generation += 1
        self.members, self.holders, self.broken = list(here), set(here), False
        self.standings.clear()

    def _how(self, standing: Standing | None, donor: Standing) -> How:
        record = donor.record
        if standing is None:
            return How.FETCH
        if standing.position == donor.position:
            return How.HERE
        same = record is not None and record.start == standing.position
        if same and record is not None and (standing.has_sums or record.end.attempt > record.start.attempt):
            return How.RECORD
        return How.FETCH


class HealSync(Alone):
    """One sphere of such a tree."""

    alone = False

    def __init__(self, tree: Tree, path: str) -> None:
        super().__init__()
        self.tree, self.path, self.listens = tree, path, True
        self._parts: list[Tensor] = []
        self._at = self._start = Position()
        self.hows: list[How] = []

    def begin(self, standing: Standing) -> Start:
        start = self.tree.roll_call(self.path, standing)
        self.members, self.rank = len(self.tree.members), self.tree.members.index(self.path)
        self.paths, self.first = tuple(self.tree.members), self.rank == 0
        self._start = start.position
        self.hows.append(start.how)
        return start

    def fetch(self) -> Snapshot:
        with self.tree.changed:
            each = self.tree.find("fetch", self._start, self.path)
            if each:
                self.tree.end(each)
            self.tree.go_on(self.path)
            return _sent(self.tree.fetched)

    def deal(self, position: Position, training: int, evaluation: int) -> list[int]:
        tree, self._parts, self._at = self.tree, [], position
        units = list(range(training))
        ids = list(range(self.members))
        deal = share_out(training, ids, position.attempt)
        if training and position == self._start:
            left = [unit for unit in units if unit not in tree.kept]
            deal = {rank: [left[i] for i in share_out(len(left), ids, 0)[rank]] for rank in ids}
        return [*deal[self.rank], *(training + unit for unit in share_out(evaluation, ids, 0)[self.rank])]

    def reduce(self, bucket: Tensor) -> None:
        self._parts.append(bucket.clone())

    def reduced(self) -> list[Tensor]:
        return self.tree.sum(self.path, "reduced", self._at, self._parts)

    def tail(self, tail: Tail, position: Position) -> Tail:
        tail.members["position"][self.rank] = hash(position) >> 8
        with self.tree.changed:
            reached = max(position.version, self.tree.newest)
            tail.members["seen"][self.rank] = sum(version <= reached for version, _ in self.tree.orders)
        (total,) = self.tree.sum(self.path, "tail", position, [torch.from_numpy(tail.vector.copy())])
        tail.vector[:] = total.numpy()
        return tail

    def wanted(self, number: int) -> Wanted:
        return self.tree.orders[number - 1][1] if number else Wanted()

    def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
        with self.tree.changed:
            each = self.tree.find("computing", position, self.path) if done else None
            if each:
                self.tree.end(each)
            self.tree.go_on(self.path)

    def report(self, report: StepReport) -> None:
        with self.tree.changed:
            self.tree.rows.setdefault(self.path, []).append(report)
            self.tree.newest = max(self.tree.newest, report.version)
            self.tree.in_force_at.setdefault(report.version, report.in_force)

    def name_of(self, rank: int) -> str:
        return f"sphere {self.paths[rank]}"

    def unsound(self, reason: str, odd: int | None = None) -> NoReturn:
        if odd == self.rank:
            raise Sick(reason)
        with self.tree.changed:
            dies = frozenset() if odd is None else frozenset({self.paths[odd]})
            if not self.tree.broken and not dies:
                self.tree.end(Break((0, 0, 0), ""))
        raise GenerationEnded

    def closed(self, closing: Closing, model: object) -> None:
        self.tree.closings[self.path] = closing

    def leave(self) -> None:
        """The script has ended: a holder until all have."""
        tree = self.tree
        assert self.finish is not None
        self.finish()
        while True:
            with tree.changed:
                each = tree.find("left", self._closed_at(), self.path)
                if each:
                    tree.end(each)
                if not tree.broken:
                    tree.left.add(self.path)
                    tree.over = tree.over or tree.left >= set(tree.members)
                    tree.changed.notify_all()
                    tree.wait(self.path, lambda: tree.over or tree.broken)
                if tree.over:
                    return
                if self.path in tree.dead:
                    raise Killed
            self.finish()

    def _closed_at(self) -> Position:
        return Position(version=self.tree.closings[self.path].version, closing=1)


def heal(
    make: Callable[[Alone], Trainer],
    breaks: Iterable[Break] = (),
    *,
    founders: Sequence[str] = ("0", "1", "2"),
    orders: Sequence[tuple[int, Wanted]] = (),
    act: Callable[[Trainer], object] = lambda trainer: trainer.train(),
) -> tuple[Tree, dict[str, Trainer]]:
    """Train on a tree that breaks so; the trainers of those who were there at the end.

    orders: (seen from the tail of the step from this version on, the order).
    """
    tree = Tree(founders, list(breaks), list(orders), expected=set(founders))
    joiners = [path for each in tree.breaks for path in each.joins]
    trainers = {path: make(HealSync(tree, path)) for path in (*founders, *joiners)}

    def run(path: str) -> None:
        try:
            act(trainers[path])
            trainers[path].sync.leave()  # type: ignore[attr-defined]
        except BaseException as error:
            tree.lose(path, error)

    threads = {path: threading.Thread(target=run, args=(path,), daemon=True) for path in trainers}
    tree.come = lambda path: threads[path].start()
    for path in founders:
        threads[path].start()
    for path in trainers:
        if threads[path].ident or path in founders:
            threads[path].join(HANG_S)
            assert not threads[path].is_alive(), f"{path} hangs"
    for path in joiners:
        if threads[path].ident:
            threads[path].join(HANG_S)
    assert not tree.breaks, f"never came to {tree.breaks}"
    for error in tree.gone.values():
        if not isinstance(error, Killed | Sick):
            raise error
    return tree, {path: trainer for path, trainer in trainers.items() if path in tree.left}


def _sent(snapshot: Snapshot) -> Snapshot:
    """As it comes out at the other end of a wire."""
    tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    return Snapshot(tensors, json.loads(json.dumps(snapshot.facts)))


# ------------------------------------------------------------ what is compared


def trained(make: Any, act: Any = lambda trainer: trainer.train()) -> Trainer:
    trainer: Trainer = make(Alone())
    act(trainer)
    return trainer


def ends_like(trainers: Trainers, reference: Trainer) -> bool:
    """Whether weights, moments, exponents and all that is told are the reference's, bit for bit."""
    return bool(trainers) and all(whole(trainer) == whole(reference) for trainer in trainers.values())


def whole(trainer: Trainer) -> tuple[Any, ...]:
    snapshot = trainer._stepper.snapshot()
    facts = {name: fact for name, fact in snapshot.facts.items() if name != "in_force"}
    return {name: t.numpy().tobytes() for name, t in snapshot.tensors.items()}, facts, trainer.state()


def hows(trainer: Trainer) -> list[How]:
    """By which way this sphere came into each generation."""
    ways: list[How] = trainer.sync.hows  # type: ignore[attr-defined]
    return ways


def made_once(tree: Tree) -> bool:
    """Whether each sphere told each version of its life once, in order, and all told the same of it."""
    numbers = [[row.version for row in rows] for rows in tree.rows.values()]
    of: dict[int, set[Any]] = {}
    for rows in tree.rows.values():
        for row in rows:
            if row.how in ("tail", "record"):
                of.setdefault(row.version, set()).add((row.loss, row.grad_norm, row.learning_rate, row.check))
    return all(each == sorted(set(each)) for each in numbers) and all(len(told) == 1 for told in of.values())
