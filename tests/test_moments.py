"""Callbacks in a training, alone and on trees: when they are called, with what, and what their exceptions do."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import pytest
import torch

from lightwatch.callbacks import BatchEnd, CallbackPolicy, CallbackType, EpochEnd, ErrorRaised, GradientSync
from lightwatch.errors import ConfigError, NonFiniteError, StateError
from lightwatch.metrics import StepReport, TrainingState
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, regression_pairs, small_trainer, tiny_gpt
from tests.trees import ThreadSync, train_on_tree

FIRED_BY_A_TRAINING = [each for each in CallbackType if each not in (CallbackType.CHECKPOINT, CallbackType.ERROR)]


def _note(seen: list[str], name: str, payload: object) -> None:
    seen.append(name)


def test_a_step_tells_its_moments_in_order() -> None:
    """Two epochs of two steps of two micro-batches; a first step is measured, so its micro-batches come again."""
    trainer = small_trainer(data=regression_pairs(16), max_steps=4)
    seen: list[str] = []
    for each in FIRED_BY_A_TRAINING:
        trainer.register_callback(each, partial(_note, seen, each.value))
    trainer.on_step_end = lambda state: seen.append("on_step_end")
    trainer.on_epoch_end = lambda state: seen.append("on_epoch_end")
    trainer.train()
    batches = ["batch_start", "batch_end"] * 2
    ending = ["gradient_sync", "on_step_end", "weight_update"]
    epoch = ["epoch_start", *batches, *ending, *batches, *ending, "on_epoch_end", "epoch_end"]
    assert seen == [*epoch[:1], *batches, *batches, *epoch[1:], *epoch]


def test_an_epochs_end_has_the_mean_loss_of_its_targets() -> None:
    """Weighted by targets, over all steps of the epoch and no other."""
    trainer = small_trainer(data=regression_pairs(21), max_steps=6)
    batches: list[BatchEnd] = []
    ends: list[EpochEnd] = []
    trainer.register_callback("batch_end", batches.append)
    trainer.register_callback("epoch_end", ends.append)
    trainer.train()
    assert [(end.epoch, end.step) for end in ends] == [(0, 3), (1, 6)]
    for end, steps in zip(ends, [(1, 2, 3), (4, 5, 6)], strict=True):
        last = {(b.step, b.index): b for b in batches if b.step in steps}.values()
        weights = [b.weight for b in last]
        assert end.loss == pytest.approx(np.average([b.loss for b in last], weights=weights), rel=1e-12)


@pytest.mark.parametrize("tree", ["1", "3", "2x2"])
def test_each_sphere_is_told_of_the_same_gradient_and_of_its_own_micro_batches(tree: str) -> None:
    """The statistics are of the mean gradient, before clipping, against numpy; no callback moves a bit."""
    seen: list[list[tuple[float, ...]]] = []
    units: list[tuple[int, int]] = []

    def act(trainer: Trainer) -> None:
        told: list[tuple[float, ...]] = []

        def look(sync: GradientSync) -> None:
            every = np.concatenate(
                [p.grad.double().numpy().ravel() for p in trainer.model.parameters() if p.grad is not None]
            )
            found = sync.statistics()
            expected = (np.linalg.norm(every), every.max(), every.min(), every.mean(), every.var())
            got = (found.norm, found.largest, found.least, found.mean, found.variance)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)
            assert found.clip_ratio == pytest.approx(min(1.0, 1.0 / (expected[0] + 1e-6)), rel=1e-5)
            assert sync.wait_s >= 0 and sync.reduce_s >= 0 and sync.step == trainer.version + 1
            told.append((*got, sync.loss or 0.0, sync.weight))

        trainer.register_callback("gradient_sync", look)
        trainer.register_callback(
            "batch_end", lambda end: units.append((end.step, end.index)) if not end.attempt else None
        )
        trainer.train()
        seen.append(told)

    clean = gpt_trainer(Alone())
    clean.train()
    trainers = train_on_tree(tree, gpt_trainer, act)
    assert {trainer.digest() for trainer in trainers} == {clean.digest()}
    assert all(told == seen[0] and len(told) == clean.version for told in seen)
    assert sorted(units) == [(step, index) for step in range(1, clean.version + 1) for index in range(5)]


@pytest.mark.parametrize("tree", ["1", "2"])
@pytest.mark.parametrize("policy", ["log", "disable"])
@pytest.mark.parametrize("moment", FIRED_BY_A_TRAINING)
def test_an_exception_that_is_survived_moves_no_bit(tree: str, policy: CallbackPolicy, moment: CallbackType) -> None:
    """At any moment, on every sphere; disabled it is called once, logged it is called on."""
    calls: list[int] = []

    def act(trainer: Trainer) -> None:
        own: list[int] = []

        def fail(payload: object) -> None:
            own.append(1)
            raise ValueError("no")

        trainer.register_callback(moment, fail, on_error=policy)
        trainer.train()
        calls.append(len(own))

    def make(sync: Alone) -> Trainer:
        return small_trainer(sync, data=regression_pairs(16), max_steps=3)

    clean = make(Alone())
    clean.train()
    for trainer in train_on_tree(tree, make, act):
        assert trainer.digest() == clean.digest()
    assert all(count == 1 if policy == "disable" else count >= 1 for count in calls)


@pytest.mark.parametrize("moment", FIRED_BY_A_TRAINING)
def test_a_raised_exception_leaves_the_last_version_whole_and_training_goes_on_from_it(moment: CallbackType) -> None:
    """In the middle of a step or after it: what follows has the bits of a run in which nothing happened."""
    clean, trainer = (small_trainer(data=regression_pairs(16), max_steps=6) for _ in range(2))
    clean.train()
    told: list[ErrorRaised] = []
    calls: list[int] = []

    def fail(payload: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("mine")

    trainer.register_callback(moment, fail)
    trainer.register_callback("error", told.append)
    with pytest.raises(KeyError, match="mine"):
        trainer.train()
    (raised,) = told
    assert isinstance(raised.error, KeyError) and raised.step == trainer.version
    trainer.train()
    assert trainer.digest() == clean.digest()


def test_a_callback_that_raises_ends_a_tree_with_its_own_exception() -> None:
    """Not with what the others then see."""

    def act(trainer: Trainer) -> None:
        def fail(state: TrainingState) -> None:
            if state.step == 2 and trainer.sync.rank == 1:
                raise KeyError("mine")

        trainer.register_callback("weight_update", fail)
        trainer.train()

    with pytest.raises(KeyError, match="mine"):
        train_on_tree("2", gpt_trainer, act)


@pytest.mark.parametrize("tree", ["1", "2"])
def test_a_callback_may_unregister_itself(tree: str) -> None:
    """Called once on every sphere, and the others go on being called."""
    counts: list[tuple[int, int]] = []

    def act(trainer: Trainer) -> None:
        once: list[int] = []
        always: list[int] = []

        def only_once(state: TrainingState) -> None:
            once.append(state.step)
            trainer.unregister_callback(handle)

        handle = trainer.register_callback("weight_update", only_once)
        trainer.register_callback("weight_update", lambda state: always.append(state.step))
        trainer.train()
        counts.append((len(once), len(always)))

    trainers = train_on_tree(tree, gpt_trainer, act)
    assert counts == [(1, trainers[0].version)] * len(trainers)


def test_an_error_is_told_to_error_callbacks_and_stays_itself() -> None:
    """Whatever they raise; a stop is no error."""
    poison = [True]
    told: list[object] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        return value * math.nan if poison[0] else value

    trainer = Trainer(tiny_gpt(), byte_pairs(8), gpt_trainer(Alone()).config, loss_fn=loss)
    trainer.register_callback("error", lambda raised: told.append(raised.error))
    trainer.register_callback("error", lambda raised: 1 / 0)
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert len(told) == 1 and isinstance(told[0], NonFiniteError)
    poison[0] = False
    trainer.on_step_end = lambda state: trainer.stop()
    trainer.train()
    assert len(told) == 1


def test_who_is_waited_for_is_named_on_every_sphere() -> None:
    """One sphere holds its micro-batches up until all others have gone ahead; the waiting is booked as such."""
    reports: dict[int, list[StepReport]] = {0: [], 1: [], 2: []}
    delay_s = 0.05

    class Telling(ThreadSync):
        def report(self, report: StepReport) -> None:
            reports[self.rank].append(report)

    def make(sync: Alone) -> Trainer:
        sync.__class__ = Telling
        trainer = gpt_trainer(sync, eval_interval=0, max_steps=4)
        if sync.rank == 1:
            trainer.register_callback("batch_start", lambda start: time.sleep(delay_s))
        return trainer

    train_on_tree("3", make)
    for rank, each in reports.items():
        made = [report for report in each if report.version and report.attempts == 1]
        assert made and {report.slowest for report in made} == {1}
        for report in made:
            assert report.own_units >= 1 and report.own_weight == 32 * report.own_units
            assert set(report.seconds) >= {"data", "compute", "wait", "reduce", "update", "step"}
            if rank != 1:
                assert report.seconds["wait"] >= delay_s / 2
            else:
                assert report.seconds["wait"] < 1e-5  # it is told in whole microseconds


@pytest.mark.parametrize(
    ("moment", "misdeed", "error", "sentence"),
    [
        ("gradient_sync", "replace", StateError, "has replaced the gradient of 0.weight"),
        ("weight_update", "freeze", ConfigError, r"trainable parameters changed.*0\.weight"),
        ("weight_update", "train", StateError, "from one of its callbacks"),
    ],
)
def test_what_a_callback_may_not_do_is_refused_before_a_weight_has_changed(
    moment: str, misdeed: str, error: type[Exception], sentence: str
) -> None:
    """A gradient replaced, a parameter frozen, a training begun inside a training."""
    trainer = small_trainer()

    def misbehave(payload: object) -> None:
        first = next(iter(trainer.model.parameters()))
        if misdeed == "replace":
            first.grad = None
        elif misdeed == "freeze":
            first.requires_grad_(False)
        else:
            trainer.train()

    trainer.register_callback(moment, misbehave)
    with pytest.raises(error, match=sentence):
        trainer.train()
    assert trainer.version == (0 if moment == "gradient_sync" else 1)


def test_statistics_of_a_gradient_that_is_gone_are_refused() -> None:
    """Zeros would look like numbers."""
    trainer = small_trainer()
    kept: list[GradientSync] = []
    trainer.register_callback("gradient_sync", kept.append)
    trainer.train()
    with pytest.raises(StateError, match="the mean gradient is gone"):
        kept[0].statistics()
