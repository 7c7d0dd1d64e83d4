"""A tree of spheres as threads of this process: real gloo groups over a HashStore, no control. Dropout must be off,
for threads share torch's generator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]

from control.protocol import Member
from lightwatch.errors import ReductionError
from lightwatch.sync import Alone, Position, Sick, Standing, Start, Wanted
from lightwatch.tail import Tail
from lightwatch.trainer import Trainer
from spheres.groups import Groups
from spheres.pipeline import Pipeline
from spheres.state import share_out

Deal = Callable[[Position, int, Sequence[int]], dict[int, list[int]]]

TREES = {
    "1": ["0"],
    "2": ["0", "1"],
    "3": ["0", "1", "2"],
    "4": ["0", "1", "2", "3"],
    "2x2": ["0/0", "0/1", "1/0", "1/1"],
    "a:2,b:1": ["a/0", "a/1", "b/0"],
    "2x2x2": [f"{i}/{j}/{k}" for i in "01" for j in "01" for k in "01"],
    "a/x:2,a/y:1,b/z:1": ["a/x/0", "a/x/1", "a/y/0", "b/z/0"],
}


class ThreadSync(Alone):
    """One sphere among threads. Orders are given to all at once by whoever drives the test."""

    alone = False

    def __init__(self, groups: Groups, members: Sequence[Member], rank: int, deal: Deal | None) -> None:
        super().__init__()
        self.listens = True
        self.groups = groups
        self.pipeline = Pipeline(groups)
        self.members = len(members)
        self.rank = rank
        self.first = rank == 0
        self.path = members[rank].path
        self._ids = [member.sphere for member in members]
        self._deal = deal

    def begin(self, standing: Standing) -> Start:
        return Start(standing.position)

    def deal(self, position: Position, training: int, evaluation: int) -> list[int]:
        self.pipeline.trace = self.trace
        deal = (
            self._deal(position, training, self._ids)
            if self._deal
            else share_out(training, self._ids, position.attempt)
        )
        mine = self._ids[self.rank]
        return [*deal[mine], *(training + unit for unit in share_out(evaluation, self._ids, 0)[mine])]

    def reduce(self, bucket: Tensor) -> None:
        self.pipeline.start(bucket.clone())

    def reduced(self) -> list[Tensor]:
        return self.pipeline.finish()

    def tail(self, tail: Tail, position: Position) -> Tail:
        tail.members["position"][self.rank] = position.version << 8 | position.attempt
        tail.members["seen"][self.rank] = self._orders[-1].number
        self.pipeline.exchange(torch.from_numpy(tail.vector))
        return tail

    def name_of(self, rank: int) -> str:
        return f"thread {rank}"

    def unsound(self, reason: str, odd: int | None = None) -> NoReturn:
        raise (Sick if odd == self.rank else ReductionError)(reason)

    def wanted(self, number: int) -> Wanted:
        return self._orders[number]


def train_on_tree(
    tree: str,
    make: Callable[[Alone], Trainer],
    act: Callable[[Trainer], object] = lambda trainer: trainer.train(),
    deal: Deal | None = None,
) -> list[Trainer]:
    """Make a trainer for each sphere of TREES[tree], call `act` on each in a thread of its own; the trainers.

    The first exception of a sphere is raised here, after all threads have ended.
    """
    if tree == "1" and deal is None:
        trainer = make(Alone())
        act(trainer)
        return [trainer]
    members = [Member(sphere=i + 1, path=path) for i, path in enumerate(TREES[tree])]
    store = HashStore()
    groups = [Groups(members, member.sphere, (1, 1), operation_timeout_s=30.0) for member in members]
    trainers = [make(ThreadSync(groups[i], members, i, deal)) for i in range(len(members))]
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            groups[index].connect(store, 20.0)
            act(trainers[index])
        except BaseException as error:  # raised again below
            errors.append(error)
            for each in groups:
                each.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for trainer, each in zip(trainers, groups, strict=True):
        trainer.sync.pipeline.close()  # type: ignore[attr-defined]
        each.close()
    if errors:
        raise errors[0]
    return trainers
