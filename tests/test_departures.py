"""Which buckets leave early: a rule over firings, against the order that every sphere must keep."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lightwatch.flat
from lightwatch.config import TrainingConfig
from lightwatch.departures import Departures
from lightwatch.flat import FlatLayout
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, regression_pairs
from tests.trees import ThreadSync, train_on_tree


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter a bucket, nearly."""
    monkeypatch.setattr(lightwatch.flat, "BUCKET_ELEMENTS", 64)


def departures(parameters: int) -> tuple[Departures, list[int]]:
    left: list[int] = []
    layout = FlatLayout(nn.ParameterList([nn.Parameter(torch.zeros(64)) for _ in range(parameters)]))
    made = Departures(layout, left.append)
    made.begin()
    return made, left


def test_buckets_leave_in_index_order_whatever_the_order_of_gradients(small_buckets: None) -> None:
    """Each once, and never before its own gradient and all those of the buckets before it are in."""
    for seed in range(50):
        made, left = departures(9)
        made.open()
        fired: set[int] = set()
        for parameter in random.Random(seed).sample(range(9), 9):
            made.fired(parameter, 1)
            fired.add(parameter)
            assert left == [bucket for bucket in range(9) if set(range(bucket + 1)) <= fired]
        made.finish()
        assert left == list(range(9)) and not made.late


def test_a_parameter_that_fires_twice_is_waited_for_once_that_is_known(small_buckets: None) -> None:
    """The first time it is late; from then on its bucket stays for the second firing."""
    made, left = departures(2)
    made.open()
    made.fired(0, 1)
    assert left == [0]
    made.fired(0, 2)
    assert made.late
    made.finish()
    made.begin()
    assert not made.late
    left.clear()
    made.open()
    made.fired(0, 1)
    assert left == []
    made.fired(0, 2)
    assert left == [0] and not made.late


def test_nothing_leaves_before_the_last_micro_batch_is_opened_and_all_has_left_when_it_is_finished(
    small_buckets: None,
) -> None:
    """A parameter that never fires holds its bucket and those after it; a sphere without work sends zeros."""
    made, left = departures(3)
    for parameter in range(3):
        made.fired(parameter, 1)
    assert left == []
    made.open()
    made.fired(0, 1)
    made.fired(2, 1)
    assert left == [0]
    made.finish()
    assert left == [0, 1, 2]
    made.finish()
    assert left == [0, 1, 2]


def test_on_a_tree_buckets_leave_before_the_backward_has_ended(small_buckets: None) -> None:
    """Seen from within: at the first gradient of the embedding, the last of all, the head's bucket has gone."""
    gone: list[int] = []

    class Watching(ThreadSync):
        begun = 0

        def deal(self, position: object, training: int, evaluation: int) -> list[int]:
            self.begun = 0
            return super().deal(position, training, evaluation)  # type: ignore[arg-type]

        def reduce(self, bucket: Tensor) -> None:
            self.begun += 1
            super().reduce(bucket)

    def make(sync: Alone) -> Trainer:
        assert isinstance(sync, ThreadSync)
        sync.__class__ = Watching
        sync.begun = 0  # type: ignore[attr-defined]
        trainer = gpt_trainer(sync)
        last = trainer._replica.layout.slots[-1].parameter
        last.register_hook(lambda gradient: gone.append(sync.begun))  # type: ignore[no-untyped-call, attr-defined]
        return trainer

    alone = gpt_trainer(Alone())
    alone.train()
    assert {trainer.digest() for trainer in train_on_tree("2", make)} == {alone.digest()}
    assert max(gone) >= len(alone._replica.layout.buckets) // 2


class Twice(nn.Module):
    """Its first layer goes through a reentrant checkpoint of its own for each half: two firings, when `now` says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)
        self.calls = 0
        self.now = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        parts = [x, x] if self.now else [x]
        hidden = [checkpoint(self.first, part, use_reentrant=True) for part in parts]
        return self.last(torch.stack(hidden).mean(0))  # type: ignore[no-any-return]


def test_a_late_gradient_repeats_the_step_and_moves_no_bit(small_buckets: None) -> None:
    """The last own micro-batch of one step fires a parameter twice for the first time, after its bucket has left."""
    attempts: list[int] = []

    class Telling(ThreadSync):
        def report(self, report: object) -> None:
            if self.first:
                attempts.append(report.attempts)  # type: ignore[attr-defined]

    def make(sync: Alone) -> Trainer:
        if isinstance(sync, ThreadSync):
            sync.__class__ = Telling
        config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=5, micro_batches=4, batch_size=2)
        model = Twice()
        trainer = Trainer(model, regression_pairs(40), config, loss_fn=nn.functional.mse_loss, sync=sync)
        compute = trainer._replica.compute

        def twice(version: int, index: int, batch: object, *, last: bool = False) -> object:
            model.now = version == 3
            return compute(version, index, batch, last=last)  # type: ignore[arg-type]

        trainer._replica.compute = twice  # type: ignore[method-assign, assignment]
        return trainer

    (alone,) = train_on_tree("1", make)
    assert {trainer.digest() for trainer in train_on_tree("3", make)} == {alone.digest()}
    assert attempts[4] > 1 and set(attempts[2:4]) == {1}


def test_a_branch_not_taken_before_moves_no_bit(small_buckets: None) -> None:
    """A parameter that fires for the first time in the middle of a run holds its bucket until then."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(6)
            self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            which = int(x.detach().abs().sum() * 1000) % 4
            return self.out(torch.relu(self.layers[which](x)))  # type: ignore[no-any-return]

    def make(sync: Alone) -> Trainer:
        config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=8, micro_batches=5, batch_size=1)
        return Trainer(Branching(), regression_pairs(40), config, loss_fn=nn.functional.mse_loss, sync=sync)

    (alone,) = train_on_tree("1", make)
    for tree in ("2", "2x2"):
        assert {trainer.digest() for trainer in train_on_tree(tree, make)} == {alone.digest()}
