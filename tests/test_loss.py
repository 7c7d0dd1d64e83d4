"""The loss: cross entropy unless a user's own is given, and never of shapes that don't fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightwatch.config import TrainingConfig
from lightwatch.errors import ConfigError
from lightwatch.losses import cross_entropy
from lightwatch.status import TrainingStatus
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, regression_pairs, small_trainer


class Uniform(nn.Module):
    """The same logit for each of `classes`, whatever comes in."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(*x.shape, -1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_uniform_logits_cost_ln_v(smoothing: float) -> None:
    """Nats per target, smoothed or not; ignored targets don't count."""
    pairs = byte_pairs(8)
    pairs[0][1][:] = -100
    config = TrainingConfig(max_steps=1, micro_batches=2, batch_size=4, label_smoothing=smoothing)
    assert Trainer(Uniform(256), pairs, config).train().loss == pytest.approx(math.log(256), rel=1e-6)


def test_the_default_loss_is_torchs_cross_entropy_over_what_is_not_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 7, generator=generator)
    targets = torch.randint(0, 7, (4, 5), generator=generator)
    targets[1] = -100
    for smoothing in (0.0, 0.2):
        plain = nn.functional.cross_entropy(logits.permute(0, 2, 1), targets, label_smoothing=smoothing)
        torch.testing.assert_close(cross_entropy(smoothing)(logits, targets), plain)
    assert float(cross_entropy(0.0)(logits[:, 0], targets[:, 0])) > 0


def wrong_shapes() -> dict[str, Any]:
    return {
        "no classes": (None, lambda x: x.float(), r"needs outputs of shape \(4, 16, 'classes'\).*\(4, 16\)"),
        "one output for all": (None, lambda x: torch.zeros(4, 7), r"got \(4, 7\)"),
        "a loss for each": (lambda o, t: (o - 0).mean(-1), lambda x: x.float()[..., None], r"one number.*\(4, 16\)"),
        "no tensor": (lambda o, t: 1.0, lambda x: x.float(), r"one number.*float"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(wrong_shapes()))
def test_wrong_shapes_raise_and_change_nothing(kind: str) -> None:
    """Never broadcast, never a silent fallback."""
    loss_fn, forward, sentence = wrong_shapes()[kind]

    class Wrong(Uniform):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x) + 0 * self.logits.sum()  # type: ignore[no-any-return]

    trainer = Trainer(Wrong(9), byte_pairs(8), TrainingConfig(max_steps=1), loss_fn=loss_fn)
    before = trainer.digest()
    with pytest.raises(ConfigError, match=sentence):
        trainer.train()
    assert (trainer.version, trainer.status, trainer.digest()) == (0, TrainingStatus.ERROR, before)


def test_a_loss_of_ones_own_takes_outputs_and_targets() -> None:
    """Whatever it returns as one number is what is minimised and told; its shape may be (1,) too."""
    seen: list[tuple[int, ...]] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((*outputs.shape, *targets.shape))
        return nn.functional.huber_loss(outputs, targets, delta=0.1).reshape(1)

    ours, huber = small_trainer(max_steps=1), small_trainer(max_steps=1, loss_fn=loss)
    batch = regression_pairs(40)
    chosen = [batch[i] for index in range(2) for i in huber.data.samples_of(0, index)]
    x, y = torch.stack([a for a, _ in chosen]), torch.stack([b for _, b in chosen])
    expected = nn.functional.huber_loss(huber.model(x), y, delta=0.1)
    assert huber.train().loss == pytest.approx(float(expected.detach()), rel=1e-5)
    ours.train()
    assert set(seen) == {(4, 3, 4, 3)} and ours.digest() != huber.digest()
