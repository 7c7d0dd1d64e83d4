"""The trainer against plain torch loops, written here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import lightwatch.optim
from lightwatch.arithmetic import settle_arithmetic
from lightwatch.config import TrainingConfig
from lightwatch.data import Batches
from lightwatch.flat import digest_of
from lightwatch.metrics import TrainingState
from lightwatch.optim import AdamW, warmup_cosine
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, mlp, regression_pairs, tiny_gpt
from tests.trees import train_on_tree

STEPS, MICRO_BATCHES, BATCH = 6, 3, 4


def micro_batches(pairs: list[tuple[Tensor, Tensor]], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same samples in the same order, by the data's numbers alone."""
    order = Batches(pairs, seed=9, micro_batches=MICRO_BATCHES, batch_size=BATCH)
    for index in range(MICRO_BATCHES):
        chosen = [pairs[i] for i in order.samples_of(step, index)]
        if chosen:
            yield torch.stack([x for x, _ in chosen]), torch.stack([y for _, y in chosen])


def reference_loop(model: nn.Module, pairs: list[tuple[Tensor, Tensor]], clip: float) -> list[float]:
    """Per micro-batch the summed loss backward in index order, gradients over the number of targets, clip, AdamW."""
    settle_arithmetic(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01, fused=True)
    schedule = warmup_cosine(2, STEPS)
    losses = []
    for step in range(STEPS):
        weight, total = 0, 0.0
        for x, y in micro_batches(pairs, step):
            loss = nn.functional.cross_entropy(model(x).reshape(-1, 256), y.reshape(-1), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            weight += y.numel()
            total += float(loss.detach())
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad /= weight
        if clip:
            lightwatch.optim.clip_grad_norm_(model.parameters(), clip)
        optimizer.param_groups[0]["lr"] = 1e-2 * schedule(step + 1)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / weight)
    return losses


def settings(**changes: object) -> TrainingConfig:
    values: dict[str, object] = {
        "learning_rate": 1e-2, "warmup_steps": 2, "max_steps": STEPS, "micro_batches": MICRO_BATCHES,
        "batch_size": BATCH, "seed": 9, "verify_interval": 0, "eval_interval": 0,
    }  # fmt: skip
    return TrainingConfig.from_dict({**values, **changes})


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_float_alone_equals_a_reference_loop_bit_for_bit(clip: float) -> None:
    """Digest of the weights after some steps, one of them ragged, with and without clipping."""
    pairs = byte_pairs(2 * MICRO_BATCHES * BATCH + 5)
    reference = tiny_gpt()
    losses = reference_loop(reference, pairs, clip)
    seen: list[float] = []
    trainer = Trainer(tiny_gpt(), pairs, settings(reduction="float", max_grad_norm=clip))
    trainer.on_step_end = lambda state: seen.append(state.loss or 0.0)
    trainer.train()
    assert trainer.digest() == digest_of(reference)
    assert seen == pytest.approx(losses, rel=1e-6)


def keep_loss(seen: list[float], state: TrainingState) -> None:
    seen.append(state.loss or 0.0)


def test_exact_stays_within_1e_5_of_float_at_each_of_100_steps() -> None:
    """The loss of the same run in both reductions."""
    losses = {}
    for reduction in ("exact", "float"):
        seen: list[float] = []
        config = settings(reduction=reduction, max_steps=100, learning_rate=3e-3, warmup_steps=10)
        trainer = Trainer(tiny_gpt(), byte_pairs(64), config)
        trainer.on_step_end = partial(keep_loss, seen)
        trainer.train()
        losses[reduction] = seen
    assert len(losses["exact"]) == 100
    assert losses["exact"] == pytest.approx(losses["float"], abs=1e-5)
    assert losses["exact"] != losses["float"]


def test_twenty_updates_of_our_adamw_are_torchs_own() -> None:
    """Bit for bit, over odd sizes, with a parameter that has a gradient only in every third step."""
    ours, theirs = mlp(), mlp()
    mine = AdamW(ours.parameters(), lr=1e-2, weight_decay=0.1)
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            gradient = torch.randn(p.shape, generator=generator)
            p.grad, q.grad = (None, None) if p.dim() == 1 and step % 3 else (gradient, gradient.clone())
        mine.step()
        other.step()
        assert digest_of(ours) == digest_of(theirs)


@pytest.mark.parametrize("sizes", [(1, 16), (3, 5), (5, 3), (7, 2), (2, 8)])
def test_micro_batches_equal_one_big_batch_weighted_by_samples(sizes: tuple[int, int]) -> None:
    """Ragged ones too: 16 samples cut into M micro-batches of B give the gradient of the one batch of 16, in float64.

    A mean of means would differ: the last micro-batch is smaller than the others.
    """
    count, batch = sizes
    pairs = regression_pairs(16)[: min(16, count * batch)]
    reference = mlp().double()
    x = torch.stack([a for a, _ in pairs]).double()
    y = torch.stack([b for _, b in pairs]).double()
    nn.functional.mse_loss(reference(x), y).backward()  # type: ignore[no-untyped-call]
    seen: list[Tensor] = []
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    config = settings(max_steps=1, micro_batches=count, batch_size=batch, learning_rate=1.0, max_grad_norm=0.0)
    trainer = Trainer(
        model, pairs, config, optimizer=optimizer, loss_fn=nn.functional.mse_loss, scheduler=lambda update: 1.0
    )
    trainer.train()
    seen = [old - new for old, new in zip(before, (p.detach() for p in model.parameters()), strict=True)]
    for step, parameter in zip(seen, reference.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(step.double(), parameter.grad, rtol=1e-4, atol=1e-6)


def test_ignored_targets_weigh_nothing_on_any_tree() -> None:
    """-100 targets are left out of the mean, also where a whole micro-batch has no other: as in one big batch."""
    pairs = byte_pairs(6)
    for place, (_, y) in enumerate(pairs):
        y[: 16 if place in (0, 1, 2) else place] = -100
    reference = tiny_gpt()
    x, y = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    expected = nn.functional.cross_entropy(reference(x).reshape(-1, 256), y.reshape(-1), ignore_index=-100)

    def make(sync: object) -> Trainer:
        config = settings(max_steps=1, micro_batches=6, batch_size=1)
        return Trainer(tiny_gpt(), pairs, config, sync=sync)  # type: ignore[arg-type]

    digests = set()
    for tree in ("1", "4"):
        trainers = train_on_tree(tree, make)
        assert trainers[0].state().loss == pytest.approx(float(expected.detach()), rel=1e-6)
        digests |= {trainer.digest() for trainer in trainers}
    assert len(digests) == 1


@pytest.mark.parametrize("order", ["clip then average", "average then clip"])
def test_clipping_comes_once_and_after_averaging(order: str) -> None:
    """The gradient that the optimizer sees is the clipped mean; clipping micro-batches first would give another."""
    pairs = regression_pairs(8)
    model, limit = mlp(), 0.01
    seen: list[Tensor] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            seen.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)

    config = settings(max_steps=1, micro_batches=4, batch_size=2, max_grad_norm=limit)
    Trainer(model, pairs, config, optimizer=Spy(model.parameters(), lr=1.0), loss_fn=nn.functional.mse_loss).train()
    mean = [torch.zeros_like(p) for p in model.parameters()]
    other = mlp()
    batches = Batches(pairs, seed=9, micro_batches=4, batch_size=2)
    for index in range(4):
        chosen = [pairs[i] for i in batches.samples_of(0, index)]
        other.zero_grad()
        x, y = torch.stack([a for a, _ in chosen]), torch.stack([b for _, b in chosen])
        nn.functional.mse_loss(other(x), y).backward()  # type: ignore[no-untyped-call]
        if order == "clip then average":
            nn.utils.clip_grad_norm_(other.parameters(), limit)
        for total, parameter in zip(mean, other.parameters(), strict=True):
            total += parameter.grad / 4  # type: ignore[operator]
    if order == "average then clip":
        norm = torch.cat([m.reshape(-1) for m in mean]).norm()
        mean = [m * (limit / (norm + 1e-6)) for m in mean]
    equal = all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(seen, mean, strict=True))
    assert equal == (order == "average then clip")


def test_another_seed_gives_another_digest() -> None:
    first, second = (gpt_trainer(Alone(), seed=seed) for seed in (1, 2))
    first.train()
    second.train()
    assert first.digest() != second.digest()
