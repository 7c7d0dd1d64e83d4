"""nan_policy "skip": a step with NaN makes a version and changes nothing, the same on every tree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightwatch.config import TrainingConfig
from lightwatch.metrics import StepReport
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import mlp, regression_pairs
from tests.trees import TREES, ThreadSync, train_on_tree

SICK_VERSION, SICK_UNIT = 2, 3
STEPS = 6


class Poisoned:
    """Pairs of which one sample is NaN: in one micro-batch of one step of each epoch."""

    def __init__(self, config: TrainingConfig) -> None:
        self.pairs = regression_pairs(60)
        clean = Trainer(mlp(), self.pairs, config, loss_fn=nn.functional.mse_loss)
        self.sick = clean.data.samples_of(SICK_VERSION, SICK_UNIT)[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x, y = self.pairs[number]
        return (torch.full_like(x, math.nan) if number == self.sick else x), y


def config(**changes: object) -> TrainingConfig:
    values: dict[str, object] = {
        "learning_rate": 1e-2, "warmup_steps": 0, "max_steps": STEPS, "micro_batches": 5, "batch_size": 2, "seed": 4,
        "nan_policy": "skip",
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})  # type: ignore[arg-type]


def reference() -> list[Tensor]:
    """A plain loop that leaves the sick step out: same batches, same schedule by version, same AdamW."""
    settings = config(reduction="float")
    data = Trainer(mlp(), Poisoned(settings).pairs, settings, loss_fn=nn.functional.mse_loss).data
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=settings.weight_decay, fused=True)
    for version in range(STEPS):
        if version == SICK_VERSION:
            continue
        batches = [data.batch(version, unit) for unit in range(5)]
        weight = sum(batch.weight for batch in batches)
        for batch in batches:
            (nn.functional.mse_loss(model(batch.inputs), batch.targets) * batch.weight / weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * (version + 1) / (STEPS + 1)))
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_a_step_with_nan_is_skipped_alike_on_every_tree(tree: str, reduction: str) -> None:
    """Moments, schedule and data go on as if the step had not been made, against plain torch; the report names it."""
    reports: list[StepReport] = []

    class Telling(ThreadSync):
        def report(self, report: StepReport) -> None:
            reports.append(report)

    def make(sync: Alone) -> Trainer:
        if isinstance(sync, ThreadSync):
            sync.__class__ = Telling
        else:
            sync = Alone(reports.append)
        settings = config(reduction=reduction)
        return Trainer(mlp(), Poisoned(settings), settings, loss_fn=nn.functional.mse_loss, sync=sync)

    def act(trainer: Trainer) -> None:
        trainer.train_steps(SICK_VERSION)
        before = trainer.digest()
        state = trainer.train_steps(1)
        assert (trainer.digest(), trainer.version) == (before, SICK_VERSION + 1)
        assert (state.step, state.loss, state.lr, state.grad_norm) == (SICK_VERSION + 1, None, None, None)
        trainer.train()

    trainers = train_on_tree(tree, make, act)
    digests = {trainer.digest() for trainer in trainers}
    assert len(digests) == 1
    for parameter, expected in zip(trainers[0].model.parameters(), reference(), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=2e-5, atol=2e-6)
    skipped = [report for report in reports if report.skipped]
    assert len(skipped) == len(trainers) and {report.version for report in skipped} == {SICK_VERSION + 1}
    for report in skipped:
        assert report.trouble is not None and report.loss is None
        assert f"micro-batch {SICK_UNIT} of step {SICK_VERSION + 1}" in report.trouble and "NaN" in report.trouble
    if reduction == "exact":
        alone = Trainer(mlp(), Poisoned(config()), config(), loss_fn=nn.functional.mse_loss)
        alone.train()
        assert digests == {alone.digest()}


def test_sums_that_overflow_float32_are_skipped_too() -> None:
    """Each micro-batch is finite, their sum is not: no flag says so before the norm does."""
    settings = config(reduction="float", max_steps=3, max_grad_norm=0.0)
    sick = [True]
    reports: list[StepReport] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * (6e37 if sick[0] and trainer.version == 1 else 1e-3)

    trainer = Trainer(mlp(), regression_pairs(60), settings, loss_fn=loss, sync=Alone(reports.append))
    trainer.train_steps(1)
    before = trainer.digest()
    trainer.train_steps(1)
    assert (
        trainer.digest() == before
        and reports[-1].skipped
        and "norm of the mean gradient" in (reports[-1].trouble or "")
    )
    trainer.train_steps(1)
    assert trainer.digest() != before and not reports[-1].skipped


def test_a_gradient_too_large_to_be_summed_is_skipped() -> None:
    """Beyond 1e27 no exponent fits: as good as infinite."""
    reports: list[StepReport] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) * (1e34 if trainer.version == 1 else 1.0)

    trainer = Trainer(mlp(), regression_pairs(60), config(max_steps=4), loss_fn=loss, sync=Alone(reports.append))
    state = trainer.train()
    assert state.step == 4 and [report.skipped for report in reports] == [False, False, True, False, False]
    assert "too large to be summed" in (reports[2].trouble or "")
