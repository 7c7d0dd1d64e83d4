"""Memory that does not keep its bits: found, by whom, before anything computed from it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightwatch.sync import Alone, GenerationEnded, How, Position, Sick, Standing, Start
from lightwatch.trainer import Trainer
from tests.healing import Break, ends_like, heal, made_once, trained
from tests.models import gpt_trainer, small_trainer

ALL = frozenset({"0", "1", "2"})


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """The reference: one process, never interrupted."""
    return trained(gpt_trainer)


def flipping(flip: Any, at: int, path: str) -> Any:
    """A maker of trainers: this sphere's memory changes once, after its first micro-batch of the step from `at`."""

    def make(sync: Alone) -> Trainer:
        trainer = gpt_trainer(sync)
        compute, flipped = trainer._replica.compute, list[int]()

        def computing(version: int, index: int, batch: Any, *, last: bool = False) -> Any:
            outcome = compute(version, index, batch, last=last)
            if version == at and sync.path == path and not flipped:
                flipped.append(index)
                flip(trainer)
            return outcome

        trainer._replica.compute = computing  # type: ignore[method-assign]
        return trainer

    return make


def flip_weights(trainer: Trainer) -> None:
    trainer._replica.layout.weights.view(torch.int32)[5] ^= 1 << 20


def flip_moments(trainer: Trainer) -> None:
    trainer._replica.optimizer.flat[1].view(torch.int32)[70] ^= 1 << 20  # type: ignore[union-attr]


def flip_sums(trainer: Trainer) -> None:
    trainer._replica._part.sums[5] ^= 1


def believing(sync: Alone) -> Trainer:
    """A maker of trainers: a bit of sphere 1's weights changes at version 3 before it writes down what they are."""
    trainer = gpt_trainer(sync)
    write_down = trainer._replica.write_down

    def writing() -> int:
        if trainer.version == 3 and sync.path == "1":
            flip_weights(trainer)
        return write_down()

    trainer._replica.write_down = writing  # type: ignore[method-assign]
    return trainer


def raised(path: str, successor: str) -> Break:
    return Break((0, 0, 0), "raised", by=path, joins=(successor,))


FLIPS = {
    "weights": (flip_weights, "weights are not what the last update wrote"),
    "moments": (flip_moments, "moments are not what the last update wrote"),
    "own sums": (flip_sums, "own sums are no longer what was added"),
}


@pytest.mark.parametrize("path", ["0", "1"])
@pytest.mark.parametrize("what", FLIPS)
def test_a_flipped_bit_convicts_its_sphere_and_moves_no_bit(what: str, path: str, alone: Trainer) -> None:
    """It leaves before anything made from that bit is applied; a successor takes a peer's state."""
    flip, told = FLIPS[what]
    make = flipping(flip, 2, path)
    tree, trainers = heal(make, [raised(path, "3")])
    assert list(tree.gone) == [path] and isinstance(tree.gone[path], Sick) and told in str(tree.gone[path])
    assert set(trainers) == (ALL - {path}) | {"3"} and ends_like(trainers, alone) and made_once(tree)
    assert max(row.version for row in tree.rows[path]) == 2


def test_weights_that_were_written_wrong_are_found_by_the_others(alone: Trainer) -> None:
    """A bit that flipped before it was written down: the sphere believes itself, and stands apart in the tail."""
    tree, trainers = heal(believing)
    assert list(tree.gone) == ["1"] and "sphere 1 stands apart in the weights" in str(tree.gone["1"])
    assert set(trainers) == {"0", "2"} and ends_like(trainers, alone)


def test_of_two_that_differ_both_leave_and_v0_is_replayed(alone: Trainer) -> None:
    """No majority says which of them is right."""
    tree, trainers = heal(believing, [raised("0", "3"), raised("1", "4")], founders=["0", "1"])
    assert set(tree.gone) == {"0", "1"} and all(isinstance(error, Sick) for error in tree.gone.values())
    assert set(trainers) == {"3", "4"} and ends_like(trainers, alone)


def test_sums_that_arrived_changed_are_dropped(alone: Trainer) -> None:
    """One sphere gets a bucket with another bit: its checksum refuses the step, and the sums are not kept for a record
    to act on."""

    def make(sync: Alone) -> Trainer:
        trainer = gpt_trainer(sync)
        reduced, spoilt = sync.reduced, list[int]()

        def spoiling() -> list[Tensor]:
            sums = reduced()
            if trainer.version == 2 and sync.path == "1" and not spoilt:
                spoilt.append(1)
                sums[0][7] ^= 1
            return sums

        sync.reduced = spoiling  # type: ignore[method-assign]
        return trainer

    tree, trainers = heal(make)
    assert not tree.gone and ends_like(trainers, alone) and made_once(tree)


def test_a_callback_that_changes_weights_everywhere_alike_is_no_sickness() -> None:
    """After each step, as one that holds them in bounds would: what it left is what must be kept."""

    def act(trainer: Trainer) -> None:
        def hold(_: object) -> None:
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.clamp_(-0.05, 0.05)

        trainer.on_step_end = hold
        trainer.train()

    tree, trainers = heal(gpt_trainer, [Break((2, 0, 0), "tail", frozenset({"1"}))], act=act)
    assert set(trainers) == ALL and not tree.gone and ends_like(trainers, trained(gpt_trainer, act))


@pytest.mark.parametrize("position", [Position(0, 0), Position(0, 1)])
def test_a_script_that_has_a_version_behind_it_is_not_taken_back(position: Position) -> None:
    """Its first `train` can't be done again: the process must leave."""

    class TakenBack(Alone):
        broken = 0

        def begin(self, standing: Standing) -> Start:
            return Start(position, How.LOAD) if self.broken else Start(standing.position)

        def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
            if position.version == 3 and not self.broken:
                self.broken = 1
                raise GenerationEnded

    trainer = small_trainer(TakenBack(), max_steps=-1, micro_batches=4, batch_size=5)
    trainer.train()
    with pytest.raises(Sick, match="behind it"):
        trainer.train()
    assert trainer.version == 3
