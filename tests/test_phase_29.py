"""The training loop's promises, one named test each: `pytest -k phase_29`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightwatch.config import GPTConfig, TrainingConfig
from lightwatch.data import Batches
from lightwatch.errors import NonFiniteError
from lightwatch.flat import digest_of
from lightwatch.metrics import StepReport
from lightwatch.model import GPT
from lightwatch.status import TrainingStatus
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, mlp, regression_pairs, small_trainer, tiny_gpt
from tests.trees import train_on_tree

LENGTH = 12


@pytest.mark.timeout(20)  # a step that does nothing would be tried for ever
def test_phase_29_train_step() -> None:
    """One step makes one version with new weights; its loss and norm are plain torch's, and a second loss is lower."""
    x, y = (torch.stack(side) for side in zip(*byte_pairs(8), strict=True))
    config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=10)
    trainer, reference = Trainer(tiny_gpt(), byte_pairs(8), config), tiny_gpt()
    loss = nn.functional.cross_entropy(reference(x).reshape(-1, 256), y.reshape(-1))
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.cat([p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None]).norm()
    state = trainer.train_step((x, y))
    assert state.step == trainer.version == 1
    assert state.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert state.grad_norm == pytest.approx(float(norm), rel=1e-4)
    for before, after in zip(reference.parameters(), trainer.model.parameters(), strict=True):
        assert not torch.equal(before, after)
    second = trainer.train_step((x, y))
    assert second.loss is not None and state.loss is not None and second.loss < state.loss


def overfitting_trainer(sync: Alone) -> Trainer:
    """A one-block GPT and ten sequences of random bytes, each unlike the others."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(layers=1, heads=2, width=48, context=LENGTH))
    config = TrainingConfig(
        learning_rate=2e-2, warmup_steps=5, max_steps=100, micro_batches=5, batch_size=2, weight_decay=0.0,
        eval_interval=0, verify_interval=0,
    )  # fmt: skip
    return Trainer(model, byte_pairs(10, LENGTH), config, sync=sync)


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    """Mean cross entropy over the ten sequences, in plain torch."""
    x, y = (torch.stack(side) for side in zip(*byte_pairs(10, LENGTH), strict=True))
    return float(nn.functional.cross_entropy(model(x).reshape(-1, 256), y.reshape(-1)))


def test_phase_29_overfit() -> None:
    """Ten distinct sequences are learned by heart, alone and by four spheres, to a loss < 0.01 and the same bits."""
    assert len({tuple(x.tolist()) for x, _ in byte_pairs(10, LENGTH)}) == 10
    assert loss_of(overfitting_trainer(Alone()).model) > 5
    trained = [*train_on_tree("1", overfitting_trainer), *train_on_tree("2x2", overfitting_trainer)]
    assert len(trained) == 5
    for trainer in trained:
        assert trainer.version == 100
        assert loss_of(trainer.model) < 0.01
        assert trainer.state().loss is not None and trainer.state().loss < 0.01  # type: ignore[operator]
        assert trainer.digest() == trained[0].digest() == digest_of(trainer.model)


def test_phase_29_grad_clip() -> None:
    """The optimizer sees a gradient no longer than the limit, direction unchanged; what is told is the norm before."""

    def gradient(limit: float) -> tuple[Tensor, float]:
        model = mlp()
        seen: list[Tensor] = []

        class Look:
            param_groups = [{"params": list(model.parameters()), "lr": 0.0}]  # noqa: RUF012

            def step(self) -> None:
                seen.append(torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]))

        config = TrainingConfig(max_grad_norm=limit, micro_batches=3, batch_size=4, max_steps=1)
        loss = nn.functional.mse_loss
        trainer = Trainer(model, regression_pairs(12), config, optimizer=Look(), loss_fn=loss)  # type: ignore[arg-type]
        norm = trainer.train().grad_norm
        assert norm is not None and len(seen) == 1
        return seen[0], norm

    free, norm = gradient(0.0)
    assert float(free.norm()) == pytest.approx(norm, rel=1e-5) and norm > 0.5
    for limit in (0.5, 1e-3):
        clipped, told = gradient(limit)
        assert told == norm and float(clipped.norm()) == pytest.approx(limit, rel=1e-4)
        torch.testing.assert_close(clipped / limit, free / norm, rtol=1e-4, atol=1e-6)
    assert torch.equal(gradient(2 * norm)[0], free)


def test_phase_29_lr_schedule() -> None:
    """Linear to the base rate, half a cosine down, never zero; weights move by it: Adam's first step is the rate."""
    trainer = small_trainer(learning_rate=0.1, warmup_steps=4, max_steps=12, weight_decay=0.0)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    rates: list[float] = []
    trainer.on_step_end = lambda state: rates.append(state.lr or 0.0)
    trainer.train_steps(1)
    moved = max(float((p.detach() - q).abs().max()) for p, q in zip(trainer.model.parameters(), before, strict=True))
    assert moved == pytest.approx(0.1 / 4, rel=1e-3)
    trainer.train()
    expected = [0.1 * k / 4 for k in (1, 2, 3, 4)]
    expected += [0.05 * (1 + math.cos(math.pi * k / 9)) for k in range(1, 9)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_phase_29_nan_detection() -> None:
    """NaN in one micro-batch's data: named with micro-batch and step on one process and on a tree; the weights stay."""
    pairs = regression_pairs(40)
    sick = Batches(pairs, seed=1, micro_batches=4, batch_size=2).samples_of(2, 3)[0]
    pairs[sick][0][0] = float("nan")
    told: list[str] = []

    def make(sync: Alone) -> Trainer:
        return small_trainer(sync, data=pairs, micro_batches=4, batch_size=2)

    def act(trainer: Trainer) -> None:
        digests: list[str] = []
        trainer.on_step_end = lambda state: digests.append(trainer.digest())
        with pytest.raises(NonFiniteError, match=r"NaN or infinite in micro-batch 3 of step 3 .*version 2") as error:
            trainer.train()
        assert (trainer.version, trainer.status) == (2, TrainingStatus.ERROR)
        assert trainer.digest() == digests[-1] and bool(trainer._replica.layout.weights.isfinite().all())
        told.append(digests[-1] + str(error.value).split(" in micro-batch")[0])

    train_on_tree("1", make, act)
    train_on_tree("3", make, act)
    assert len(told) == 4 and len(set(told)) == 1


@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_phase_29_gradient_accumulation(reduction: str) -> None:
    """Micro-batches of 1, 3, 5 and 7 samples, the last one ragged, are the one batch of 16: loss, norm and weights.

    A mean of their means is another loss, which this would notice.
    """
    pairs = regression_pairs(16)
    big = small_trainer(data=pairs, micro_batches=1, batch_size=16, max_steps=1, reduction=reduction)
    whole = big.train()
    for size in (1, 3, 5, 7):
        count = -(-16 // size)
        losses: list[float] = []

        def loss(outputs: Tensor, targets: Tensor, losses: list[float] = losses) -> Tensor:
            value = nn.functional.mse_loss(outputs, targets)
            losses.append(float(value.detach()))
            return value

        cut = small_trainer(
            data=pairs, micro_batches=count, batch_size=size, max_steps=1, reduction=reduction, loss_fn=loss
        )
        state = cut.train()
        assert state.loss == pytest.approx(whole.loss, rel=1e-6)
        assert state.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
        for mine, theirs in zip(cut.model.parameters(), big.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        mean_of_means = sum(losses[-count:]) / count
        assert size == 1 or abs(mean_of_means - state.loss) > 1e-4  # type: ignore[operator]


def test_phase_29_loss_decreases() -> None:
    """On text with a pattern the mean of the last ten losses is well below the first's, held-out loss too."""
    text = torch.arange(64).repeat(20)
    pairs = [(text[i : i + 16].clone(), text[i + 1 : i + 17].clone()) for i in range(0, 1200, 13)]
    reports: list[StepReport] = []
    config = TrainingConfig(
        learning_rate=1e-2, warmup_steps=5, max_steps=60, micro_batches=2, batch_size=4, eval_interval=20
    )
    trainer = Trainer(tiny_gpt(), pairs[10:], config, eval_data=pairs[:10], sync=Alone(reports.append))
    trainer.train()
    losses = [report.loss for report in reports if report.loss is not None]
    evaluations = [report.eval_loss for report in reports if report.eval_loss is not None]
    assert len(losses) == 60 and sum(losses[-10:]) / 10 < 0.3 * losses[0]
    assert len(evaluations) == 2 and trainer.eval_loss is not None
    assert trainer.eval_loss < evaluations[1] < evaluations[0] < losses[0]
