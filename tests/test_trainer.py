"""What a Trainer does for its user, against plain torch where there is something to compute."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightwatch
import lightwatch.optim
import lightwatch.replica
from lightwatch.config import TrainingConfig
from lightwatch.data import Batches
from lightwatch.errors import ConfigError, DataError, StateError
from lightwatch.flat import digest_of
from lightwatch.metrics import StepReport
from lightwatch.optim import warmup_cosine
from lightwatch.status import TrainingStatus
from lightwatch.sync import Alone, GenerationEnded, Position, Standing, Start
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, mlp, regression_pairs, small_trainer, tiny_gpt


class Counted:
    """40 pairs that count who was asked for."""

    def __init__(self, count: int = 40) -> None:
        self.pairs = regression_pairs(count)
        self.asked: list[int] = []
        self.fingerprint = "forty pairs"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        self.asked.append(number)
        return self.pairs[number]


def in_one_batch(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


# ------------------------------------------------------------ construction


def test_two_arguments_are_enough_to_train() -> None:
    """The model is used, not copied: the user's own parameters are better afterwards; the data are the user's too."""
    model, pairs = tiny_gpt(), byte_pairs(64)
    parameters = list(model.parameters())
    before = digest_of(model)
    trainer = lightwatch.Trainer(model, pairs)
    assert trainer.model is model and trainer.data.dataset is pairs
    state = trainer.train()
    assert state.step == trainer.version == 2 and state == trainer.state()
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert digest_of(model) == trainer.digest() != before
    assert trainer.config == TrainingConfig()


def test_what_is_no_schedule_or_no_dataset_is_refused_at_once() -> None:
    model = mlp()
    with pytest.raises(ConfigError, match="scheduler must be a function from update number to a factor, got float"):
        Trainer(model, regression_pairs(8), scheduler=0.5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="map-style"):
        Trainer(model, iter(regression_pairs(8)))


# ------------------------------------------------------------ state


def test_the_state_is_what_plain_torch_computes_for_the_step() -> None:
    """loss: mean over the step's samples before the update; grad_norm: before clipping; lr: what the update used."""
    trainer = small_trainer(max_grad_norm=0.01, micro_batches=3, batch_size=4, warmup_steps=4)
    assert trainer.state() == lightwatch.TrainingState(0, 0, None, None, None)
    chosen = [regression_pairs(40)[i] for index in range(3) for i in trainer.data.samples_of(0, index)]
    reference = mlp().double()
    x, y = in_one_batch(chosen)
    loss = nn.functional.mse_loss(reference(x.double()), y.double())
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.get_total_norm([p.grad for p in reference.parameters() if p.grad is not None])
    state = trainer.train_steps(1)
    assert state.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert state.grad_norm == pytest.approx(float(norm), rel=1e-5) and float(norm) > 0.1
    assert state.lr == 1e-2 / 4
    assert (state.step, state.epoch) == (1, 0)


def test_a_state_is_a_frozen_copy() -> None:
    trainer = small_trainer()
    first = trainer.train_steps(1)
    with pytest.raises(FrozenInstanceError):
        first.step = 7  # type: ignore[misc]
    values = (first.step, first.loss, first.grad_norm)
    trainer.train_steps(2)
    assert (first.step, first.loss, first.grad_norm) == values and trainer.state().step == 3


def test_the_epoch_in_the_state_is_that_of_the_step() -> None:
    """Five steps an epoch: updates 1 to 5 were of epoch 0, update 6 of epoch 1."""
    trainer = small_trainer(max_steps=11)
    epochs: list[int] = []
    trainer.on_step_end = lambda state: epochs.append(state.epoch)
    trainer.train()
    assert epochs == [0] * 5 + [1] * 5 + [2]


# ------------------------------------------------------------ how long


@pytest.mark.parametrize(
    ("max_steps", "epochs", "expected"),
    [(-1, None, 5), (-1, 3, 15), (7, None, 7), (7, 1, 5), (7, 2, 7), (12, 2, 10), (3, 0, 0)],
)
def test_training_ends_with_the_epochs_or_max_steps_whichever_comes_first(
    max_steps: int, epochs: int | None, expected: int
) -> None:
    """Neither: one epoch. max_steps alone: as many epochs as it takes, ending inside one."""
    trainer = small_trainer(max_steps=max_steps)
    assert trainer.train(epochs).step == trainer.version == expected


def test_train_steps_makes_that_many_versions_and_not_past_max_steps() -> None:
    trainer = small_trainer(max_steps=6)
    assert [trainer.train_steps(n).step for n in (0, 1, 3, 5, 2)] == [0, 1, 4, 6, 6]
    endless = small_trainer(max_steps=-1)
    assert endless.train_steps(7).step == 7


def test_a_negative_number_is_refused_and_changes_nothing() -> None:
    trainer = small_trainer(max_steps=-1)
    with pytest.raises(ConfigError, match="must be >= 0"):
        trainer.train(-1)
    with pytest.raises(ConfigError, match="must be >= 0"):
        trainer.train_steps(-3)
    assert trainer.status is TrainingStatus.IDLE and trainer.train_steps(1).step == 1


def test_steps_one_by_one_are_the_steps_of_one_call() -> None:
    """However the calls are cut, the same bits."""
    whole, cut = small_trainer(), small_trainer()
    whole.train()
    for count in (1, 2, 3):
        cut.train_steps(count)
    cut.close()
    assert cut.digest() == whole.digest() and cut.state() == whole.state()


def test_close_agrees_on_the_last_version_once() -> None:
    """After `train_steps` it closes with version, digest and work done; after `train`, or twice, it does nothing."""
    sync = Alone()
    trainer = small_trainer(sync, reduction="float")
    trainer.close()
    assert sync.closing is None
    trainer.train_steps(2)
    assert sync.closing is None
    trainer.close()
    closing = sync.closing
    assert closing is not None
    assert (closing.version, closing.digest, closing.reason) == (2, trainer.digest(), "completed")
    assert closing.micro_batches == 4 and closing.busy_s > 0
    trainer.close()
    assert sync.closing is closing
    trainer.train()
    closing = sync.closing
    trainer.close()
    assert sync.closing is closing and closing is not None and closing.version == 6


@pytest.mark.parametrize("count", [40, 37, 33])
def test_an_epoch_sees_every_sample_once_and_the_next_one_in_another_order(count: int) -> None:
    """Counted by the dataset itself, a ragged last step included. (Exact sums measure the first step's data anew.)"""
    data = Counted(count)
    trainer = small_trainer(data=data, max_steps=-1, reduction="float")
    orders = []
    for _ in range(3):
        data.asked.clear()
        trainer.train(1)
        assert Counter(data.asked) == Counter(range(count))
        orders.append(tuple(data.asked))
    assert len(set(orders)) == 3 and tuple(range(count)) not in orders
    assert trainer.version == 15


# ------------------------------------------------------------ a step


def test_a_step_is_forward_loss_backward_reduce_clip_update_and_zero_in_this_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spied on everywhere: all micro-batches, one reduction, one clipping, one update at this update's rate."""
    events: list[str] = []
    model = mlp()
    model.register_forward_pre_hook(lambda *_: events.append("forward"))
    model[0].weight.register_hook(lambda g: events.append("backward"))  # type: ignore[operator]
    clip = lightwatch.optim.clip_gradients_

    class Spy(Alone):
        def reduce(self, bucket: Tensor) -> None:
            events.append("reduce")
            super().reduce(bucket)

    class Update:
        param_groups = [{"params": list(model.parameters()), "lr": 0.5}]  # noqa: RUF012

        def step(self) -> None:
            events.append(f"update at {self.param_groups[0]['lr']}")
            assert all(p.grad is not None for p in model.parameters())

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        events.append("loss")
        return nn.functional.mse_loss(outputs, targets)

    def clipping(parameters: Any, limit: float) -> float:
        events.append(f"clip to {limit}")
        return clip(parameters, limit)

    monkeypatch.setattr(lightwatch.replica, "clip_gradients_", clipping)
    config = TrainingConfig(micro_batches=2, batch_size=4, max_steps=2, max_grad_norm=0.25, reduction="float")
    trainer = Trainer(
        model, regression_pairs(16), config, optimizer=Update(), scheduler=lambda update: update / 2,  # type: ignore[arg-type]
        loss_fn=loss, sync=Spy(),
    )  # fmt: skip
    trainer.on_step_end = lambda state: events.append(
        "zero" if all(p.grad is None for p in model.parameters()) else "stale gradients"
    )
    trainer.train()
    micro_batch = ["forward", "loss", "backward"]
    expected = [
        [*micro_batch, *micro_batch, "reduce", "clip to 0.25", f"update at {rate}", "zero"] for rate in (0.25, 0.5)
    ]
    assert events == expected[0] + expected[1]


def test_any_torch_optimizer_does_what_it_does_in_a_plain_loop() -> None:
    """20 steps of SGD with momentum and two groups of rates: bit for bit the loop written here."""

    def groups(model: nn.Sequential) -> torch.optim.Optimizer:
        each = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.02}]
        return torch.optim.SGD(each, momentum=0.9)

    schedule = warmup_cosine(3, 20)
    pairs, plain, ours = regression_pairs(40), mlp(), mlp()
    optimizer = groups(plain)
    batches = Batches(pairs, seed=1, micro_batches=2, batch_size=4)
    for step in range(20):
        for index in range(2):
            x, y = in_one_batch([pairs[i] for i in batches.samples_of(step, index)])
            (nn.functional.mse_loss(plain(x), y) * 4).backward()  # type: ignore[no-untyped-call]
        for p in plain.parameters():
            assert p.grad is not None
            p.grad /= 8
        for group, base in zip(optimizer.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = base * schedule(step + 1)
        optimizer.step()
        optimizer.zero_grad()
    config = TrainingConfig(
        micro_batches=2, batch_size=4, max_steps=20, warmup_steps=3, max_grad_norm=0, seed=1, reduction="float"
    )
    trainer = Trainer(ours, pairs, config, optimizer=groups(ours), loss_fn=nn.functional.mse_loss)
    trainer.train()
    assert trainer.digest() == digest_of(plain)
    assert trainer.state().lr == 0.1 * schedule(20)


@pytest.mark.parametrize(("warmup", "steps"), [(3, 8), (0, 5), (9, 4), (4, 4)])
def test_update_k_uses_the_closed_forms_rate_and_none_is_made_at_zero(warmup: int, steps: int) -> None:
    """Warm-up, then half a cosine to max_steps; no warm-up and one past the end are legal."""
    trainer = small_trainer(warmup_steps=warmup, max_steps=steps, learning_rate=0.25)
    rates: list[float] = []
    trainer.on_step_end = lambda state: rates.append(state.lr or 0.0)
    trainer.train()
    expected = []
    for k in range(1, steps + 1):
        cosine = 0.5 + 0.5 * math.cos(math.pi * (k - warmup) / (steps - warmup + 1)) if steps > warmup else 1.0
        expected.append(0.25 * (k / warmup if k <= warmup else cosine))
    assert rates == pytest.approx(expected, rel=1e-12) and all(rates)


def test_without_max_steps_the_cosine_ends_with_the_epochs() -> None:
    trainer = small_trainer(max_steps=-1, warmup_steps=1)
    rates: list[float] = []
    trainer.on_step_end = lambda state: rates.append(state.lr or 0.0)
    trainer.train(2)
    assert rates == pytest.approx([1e-2 * warmup_cosine(1, 10)(k) for k in range(1, 11)])


# ------------------------------------------------------------ a batch of one's own


def test_one_step_on_a_batch_of_ones_own_is_that_of_plain_torch() -> None:
    """Of its own loss and rate; its version is the next one, and training goes on with the data afterwards."""
    x, y = in_one_batch(regression_pairs(7, seed=9))
    reference = mlp().double()
    loss = nn.functional.mse_loss(reference(x.double()), y.double())
    trainer = small_trainer(warmup_steps=0)
    state = trainer.train_step((x, y))
    assert state.step == 1 and state.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert trainer.train_step((x, y)).loss < state.loss  # type: ignore[operator]
    assert trainer.train().step == 6


def test_a_batch_without_targets_makes_a_version_and_no_update() -> None:
    """All targets ignored: nothing to learn, no NaN, weights and moments untouched, the version goes on."""
    pairs = byte_pairs(8)
    config = TrainingConfig(max_steps=5, micro_batches=1, batch_size=8)
    trainer = Trainer(tiny_gpt(), pairs, config)
    trainer.train_steps(1)
    before = trainer.digest()
    x, y = in_one_batch(pairs)
    state = trainer.train_step((x, torch.full_like(y, -100)))
    assert (state.step, state.loss, state.lr, state.grad_norm) == (2, None, None, None)
    assert trainer.digest() == before
    assert set(trainer._replica.optimizer._counts.tolist()) == {1.0}  # type: ignore[union-attr]


def test_a_batch_of_ones_own_is_refused_on_a_tree() -> None:
    """It would give each sphere another batch; the sentence says what to call."""

    class Tree(Alone):
        alone = False

    trainer = small_trainer(Tree())
    with pytest.raises(StateError, match=r"on a tree call train_steps\(n\)"):
        trainer.train_step(in_one_batch(regression_pairs(4)))
    assert trainer.version == 0


# ------------------------------------------------------------ data that fail


def test_data_that_fail_raise_and_what_follows_is_as_if_they_had_not() -> None:
    """The dataset's own error comes out; weights stay, and a step of one's own isn't mixed up with the failed one."""

    class Failing(Counted):
        failing: int | None = None

        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            if number == self.failing:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    data = Failing()
    trainer, clean = small_trainer(data=data), small_trainer(data=Counted())
    data.failing = trainer.data.samples_of(1, 1)[2]
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.train()
    data.failing = None
    clean.train_steps(1)
    assert (trainer.version, trainer.digest()) == (1, clean.digest())
    own = in_one_batch(regression_pairs(8, seed=2))
    assert trainer.train_step(own) == clean.train_step(own)
    trainer.train()
    clean.train()
    assert trainer.digest() == clean.digest()


def test_samples_that_are_no_pairs_are_refused() -> None:
    trainer = small_trainer(data=[(x, y, y) for x, y in regression_pairs(40)])
    before = trainer.digest()
    with pytest.raises(DataError, match=r"pair \(inputs, targets\).*3 parts"):
        trainer.train()
    assert (trainer.version, trainer.digest()) == (0, before)


def test_what_was_computed_before_a_generation_ended_is_counted_with_its_version() -> None:
    """In the middle of a step, with the own sums kept: whole micro-batches, each computed and told once."""
    reports: list[StepReport] = []

    class Breaking(Alone):
        broken = 0

        def begin(self, standing: Standing) -> Start:
            return Start(standing.position, keep=bool(self.broken))

        def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
            if position.version == 3 and done == 2 and not self.broken:
                self.broken = 1
                raise GenerationEnded

    sync = Breaking(reports.append)
    trainer = gpt_trainer(sync)
    clean = gpt_trainer(Alone())
    trainer.train()
    clean.train()
    assert sync.broken and trainer.digest() == clean.digest()
    made = [report for report in reports if report.version > 1]
    assert [report.own_units for report in made] == [5] * len(made)
    assert sync.closing is not None and sync.closing.micro_batches == 5 * (len(made) + 3)
