"""bf16 autocast: forward and loss in bfloat16 where torch does it, everything else as ever."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, small_trainer
from tests.trees import train_on_tree


def in_bf16(sync: Alone) -> Trainer:
    return gpt_trainer(sync, autocast="bf16")


@pytest.fixture(scope="module")
def alone() -> Trainer:
    return train_on_tree("1", in_bf16)[0]


@pytest.mark.parametrize("tree", ["1", "3", "a:2,b:1"])
def test_in_bf16_too_every_tree_gives_the_digest_of_one_process(tree: str, alone: Trainer) -> None:
    """And a second process alone: the same bits again, the loss of the evaluation too."""
    for trainer in train_on_tree(tree, in_bf16):
        assert trainer.digest() == alone.digest()
        assert trainer.state() == alone.state()
        assert trainer.eval_loss == alone.eval_loss


def test_it_is_torchs_own_autocast_around_forward_and_loss() -> None:
    """The first loss is that of a plain loop, bit for bit; without autocast it is another."""
    trainer = gpt_trainer(Alone(), autocast="bf16", micro_batches=1)
    batch = trainer.data.batch(0, 0)
    plain = gpt_trainer(Alone(), micro_batches=1).model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = plain(batch.inputs)
        loss = nn.functional.cross_entropy(outputs.flatten(0, -2), batch.targets.flatten())
    assert outputs.dtype == torch.bfloat16
    assert trainer.train_steps(1).loss == float(loss.detach())
    full = gpt_trainer(Alone(), micro_batches=1)
    assert full.train_steps(1).loss != float(loss.detach())


def test_it_learns_and_stays_near_full_precision() -> None:
    """Over 60 steps the loss falls as in float32, to within a percent of the way."""
    ends = {}
    for autocast in ("off", "bf16"):
        trainer = gpt_trainer(Alone(), autocast=autocast, max_steps=60, eval_interval=0)
        first = trainer.train_steps(1).loss
        last = trainer.train().loss
        assert first is not None and last is not None
        ends[autocast] = first - last
    assert ends["off"] > 0.3
    assert ends["bf16"] == pytest.approx(ends["off"], rel=0.02)


@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_a_loss_that_comes_as_bf16_is_taken(reduction: str) -> None:
    """Whatever the loss function gives, training is near that in full precision, and the weights are float32."""
    dtypes = set()

    def narrow(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = (outputs - targets.to(outputs.dtype)).square().mean()
        dtypes.add(loss.dtype)
        return loss

    trainer = small_trainer(loss_fn=narrow, autocast="bf16", reduction=reduction, max_steps=2)
    loss = trainer.train().loss
    assert dtypes == {torch.bfloat16}
    assert loss == pytest.approx(small_trainer(reduction=reduction, max_steps=2).train().loss, rel=0.05)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
