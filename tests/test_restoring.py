"""A training that goes on from a checkpoint is the one that was never interrupted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from lightwatch.errors import DataError, StateError
from lightwatch.manifest import read_manifest
from lightwatch.metrics import StepReport, TrainingState
from lightwatch.snapshot import Snapshot
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, mlp, regression_pairs, small_trainer
from tests.states import equal, in_full
from tests.test_snapshot import OPTIMIZERS, odd_trainer

pytestmark = pytest.mark.usefixtures("here")


def told(report: StepReport) -> dict[str, object]:
    """What a version's report says, but for how long it took."""
    return {name: value for name, value in vars(report).items() if name not in ("seconds", "how")}


@pytest.mark.parametrize("version", [0, 1, 4, 7])
def test_ten_more_steps_are_those_of_a_training_that_was_never_interrupted(version: int) -> None:
    """Weights, moments, exponents, learning rate, losses, evaluations, best loss: all of it, bit for bit."""
    whole: list[StepReport] = []
    reports: list[StepReport] = []
    uninterrupted = gpt_trainer(Alone(whole.append), max_steps=version + 10, save_interval=0)
    uninterrupted.train()
    first = gpt_trainer(Alone(), max_steps=version + 10, save_interval=0)
    if version:
        first.train_steps(version)
    path = first.checkpoint()
    again = gpt_trainer(Alone(reports.append), max_steps=version + 10, save_interval=0)
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.mul_(0.5)
    assert again.restore(path) == first.state() and again.version == version
    assert again.digest() == first.digest() == read_manifest(path).digest
    again.train()
    assert [told(each) for each in reports[1:]] == [told(each) for each in whole[version + 1 :]]
    assert equal(in_full(again), in_full(uninterrupted))
    assert again.best_eval == uninterrupted.best_eval and again.digest() == uninterrupted.digest()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_model_and_optimizer_goes_on_as_it_was(optimizer: str) -> None:
    """Tied and frozen weights, BatchNorm, buffers of no state_dict, channels last; torch's own optimizers."""
    whole, first, again = (odd_trainer(Alone(), optimizer) for _ in range(3))
    whole.train()
    first.train_steps(3)
    again.restore(first.checkpoint())
    again.train()
    assert equal(in_full(again), in_full(whole)) and again.state() == whole.state()


def test_a_learning_rate_that_was_ordered_is_still_in_force() -> None:
    whole, first, again = (gpt_trainer(Alone(), max_steps=8, save_interval=0) for _ in range(3))
    for trainer in (whole, first):
        trainer.train_steps(2)
        trainer.set_learning_rate(0.05)
        trainer.train_steps(2)
    again.restore(first.checkpoint())
    again.train()
    whole.train()
    assert equal(in_full(again), in_full(whole)) and again.state().lr == whole.state().lr


def test_a_trainer_that_goes_back_makes_the_same_versions_again() -> None:
    """In the same process, in a lineage of its own: 3 to 6 twice."""
    reports: list[StepReport] = []
    trainer = gpt_trainer(Alone(reports.append), max_steps=6, save_interval=0)
    trainer.train_steps(3)
    path = trainer.checkpoint()
    trainer.train()
    end = trainer.digest()
    assert trainer.restore(path).step == 3 and trainer.digest() != end
    trainer.train()
    assert trainer.digest() == end and trainer.version == 6
    numbers = [report.version for report in reports]
    again = numbers.index(3, numbers.index(6))
    assert [told(r)["loss"] for r in reports[again + 1 :]] == [told(r)["loss"] for r in reports[4:7]]
    assert read_manifest(trainer.checkpoint("later")).lineage == 1


def test_the_newest_whole_one_is_taken_and_what_was_passed_over_is_named(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = small_trainer(save_interval=0, max_checkpoints=0)
    for _ in range(3):
        trainer.train_steps(1)
        trainer.checkpoint()
    part = next((here / "checkpoints" / "step-3").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    other = small_trainer(save_interval=0)
    with caplog.at_level(logging.WARNING, "lightwatch"):
        assert other.restore("checkpoints").step == 2
    assert str(part.relative_to(here)) in caplog.text


def test_what_can_not_be_restored_changes_nothing(here: Path) -> None:
    """No checkpoint, a damaged one, one of another model or optimizer; not from within a training either."""
    gpt = gpt_trainer(Alone(), save_interval=0)
    gpt.train_steps(1)
    gpt.checkpoint("gpt")
    trainer = small_trainer(save_interval=0)
    trainer.train_steps(2)
    before = in_full(trainer)
    kept = Snapshot({name: tensor.clone() for name, tensor in before.tensors.items()}, before.facts)
    for path, sentence in (("nowhere", "no whole checkpoint"), ("checkpoints/gpt", "another model"), (".", "whole")):
        with pytest.raises(DataError, match=sentence):
            trainer.restore(path)
        assert equal(in_full(trainer), kept) and trainer.version == 2
    own = trainer.checkpoint("own")
    model = mlp()
    other = Trainer(model, regression_pairs(40), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(DataError, match="by AdamW, this one's optimizer is SGD"):
        other.restore(own)

    def back(_: TrainingState) -> None:
        trainer.restore(own)

    trainer.on_step_end = back
    with pytest.raises(StateError, match="can't go back"):
        trainer.train_steps(1)
    assert trainer.version == 3


def test_another_config_or_other_data_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """What decides no bit is none."""
    trainer = small_trainer(save_interval=0)
    path = trainer.checkpoint()
    with caplog.at_level(logging.WARNING, "lightwatch"):
        small_trainer(save_interval=7, log_interval=3, checkpoint_dir="other").restore(path)
        assert caplog.text == ""
        small_trainer(save_interval=0, seed=2, data=[*trainer.data.dataset[:-1], trainer.data.dataset[0]]).restore(path)
    assert "seed was 1 and is 2" in caplog.text and "the data's fingerprint was" in caplog.text
