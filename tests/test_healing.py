"""Generations that end at any point, lose members and take in others, move no bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightwatch.sync import Alone, How, Position, Sick, Wanted
from lightwatch.trainer import Trainer
from tests.healing import Break, heal
from tests.models import gpt_trainer, small_trainer

ALL = frozenset({"0", "1", "2"})


@pytest.fixture(scope="module")
def alone() -> Trainer:
    trainer = gpt_trainer(Alone())
    trainer.train()
    return trainer


def same(trainers: dict[str, Trainer], reference: Trainer) -> bool:
    return all(
        (t.digest(), t.version, t.state(), t.eval_loss, t.best_eval)
        == (reference.digest(), reference.version, reference.state(), reference.eval_loss, reference.best_eval)
        for t in trainers.values()
    )


@pytest.mark.parametrize("at", [(0, 0, 0), (0, 0, 1), (2, 0, 0), (4, 0, 0), (5, 0, 0)])
@pytest.mark.parametrize("missed", [ALL, frozenset({"1"}), frozenset({"0", "2"})])
@pytest.mark.parametrize("where", ["reduced", "tail"])
def test_an_exchange_that_some_missed_moves_no_bit(
    where: str, missed: frozenset[str], at: tuple[int, int, int], alone: Trainer
) -> None:
    if where == "reduced" and at[0] == 5:
        where = "tail"
    tree, trainers = heal(gpt_trainer, [Break(at, where, missed)])
    assert set(trainers) == ALL and same(trainers, alone)


def test_without_breaks(alone: Trainer) -> None:
    tree, trainers = heal(gpt_trainer)
    assert set(trainers) == ALL and same(trainers, alone)
