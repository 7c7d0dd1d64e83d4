"""What must not follow from who computed what before: dropout, buffers, evaluations, probes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightwatch.config import TrainingConfig
from lightwatch.data import Batch
from lightwatch.flat import digest_of
from lightwatch.sync import Alone
from lightwatch.tail import Outcome
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, mlp, regression_pairs, tiny_gpt
from tests.trees import train_on_tree

mse = nn.functional.mse_loss


def config(**changes: object) -> TrainingConfig:
    values: dict[str, object] = {
        "learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 4, "micro_batches": 3, "batch_size": 4, "seed": 1,
    }  # fmt: skip
    return TrainingConfig.from_dict({**values, **changes})


def dropout_trainer(sync: Alone, evaluation: int, every: int, most: int = 3) -> Trainer:
    trainer = gpt_trainer(sync, eval_interval=every, eval_batches=most)
    pairs = byte_pairs(evaluation, seed=4) if evaluation else None
    return Trainer(tiny_gpt(dropout=0.3), byte_pairs(50), trainer.config, eval_data=pairs, sync=sync)


def test_with_dropout_an_evaluation_moves_no_bit() -> None:
    """Every step, every second, at the end only, or of nothing: the same digest; dropout itself does act."""
    digests = set()
    for evaluation, every in ((7, 1), (7, 2), (7, 0), (3, 1), (0, 1)):
        trainer = dropout_trainer(Alone(), evaluation, every)
        trainer.train()
        assert (trainer.eval_loss is None) == (evaluation == 0)
        digests.add(trainer.digest())
    plain = gpt_trainer(Alone())
    plain.train()
    assert len(digests) == 1 and plain.digest() not in digests


def test_an_evaluation_is_plain_torchs_weighted_loss_and_leaves_train_mode() -> None:
    """Of all held-out targets, without dropout, by the weights of the last version."""
    trainer = dropout_trainer(Alone(), 7, 0, most=32)
    trainer.eval_data.dataset[2][1][5:] = -100  # type: ignore[union-attr]
    trainer.train()
    assert trainer.model.training
    pairs = trainer.eval_data.dataset  # type: ignore[union-attr]
    x, y = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    trainer.model.eval()
    expected = nn.functional.cross_entropy(trainer.model(x).reshape(-1, 256), y.reshape(-1))
    assert trainer.eval_loss == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("drawn", [0, 1, 1000])
def test_data_that_draw_random_numbers_do_not_move_the_models(drawn: int) -> None:
    """A dataset that draws more or fewer numbers than another gives the same dropout."""

    class Drawing(list[tuple[Tensor, Tensor]]):
        fingerprint = "drawing"

        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            torch.rand(drawn)
            return super().__getitem__(number)

    plain, drawing = (
        Trainer(tiny_gpt(dropout=0.3), pairs, config(max_steps=2))
        for pairs in (byte_pairs(50), Drawing(byte_pairs(50)))
    )
    plain.train()
    drawing.train()
    assert drawing.digest() == plain.digest()


def test_every_micro_batch_draws_numbers_of_its_own_again_and_again() -> None:
    """What a forward draws is a function of seed, step and index: distinct for each, the same when repeated."""

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()
            self.drawn: list[tuple[int, float]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.drawn.append((trainer.version, float(torch.rand(()))))
            y: Tensor = self.inner(x)
            return y

    runs = []
    for seed in (1, 1, 2):
        model = Drawing()
        trainer = Trainer(model, regression_pairs(50), config(seed=seed), loss_fn=mse)
        trainer.train()
        first, later = [n for v, n in model.drawn if v == 0], [n for v, n in model.drawn if v > 0]
        assert first[:3] == first[3:6] == first[6:] and len(later) == 9  # the first step is computed three times
        assert len({*first, *later}) == 12
        runs.append(model.drawn)
    assert runs[0] == runs[1] and not set(runs[0]) & set(runs[2])


class Remembering(nn.Module):
    """Counts its forwards in a buffer, in eval mode too, and puts a new tensor into another one."""

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        self.count += 1
        return y + self.mean


def test_buffers_follow_micro_batch_0_whoever_ran_what() -> None:
    """One count a version, none for an evaluation; replaced ones too; the same on a tree as on one process."""

    def make(sync: Alone) -> Trainer:
        data, held_out = regression_pairs(50), regression_pairs(9, seed=8)
        return Trainer(Remembering(), data, config(eval_interval=1), loss_fn=mse, eval_data=held_out, sync=sync)

    trainers = [*train_on_tree("1", make), *train_on_tree("3", make)]
    assert len({trainer.digest() for trainer in trainers}) == 1
    for trainer in trainers:
        assert isinstance(trainer.model, Remembering) and int(trainer.model.count) == 4
    once = Remembering()
    batch = trainers[0].data.batch(0, 0)
    once(batch.inputs)
    short = make(Alone())
    short.train_steps(1)
    assert isinstance(short.model, Remembering) and torch.equal(short.model.mean, once.mean)


def test_buffers_set_between_two_calls_are_the_next_versions() -> None:
    """Loaded or set by the user while nothing runs, they are what the next step starts from."""
    trainer = Trainer(Remembering(), regression_pairs(50), config(), loss_fn=mse)
    assert isinstance(trainer.model, Remembering)
    trainer.train_steps(1)
    trainer.model.count.fill_(40)
    trainer.train_steps(2)
    assert int(trainer.model.count) == 42


def test_a_probe_leaves_the_copy_as_it_was_and_tells_gradients_apart() -> None:
    """Weights, buffers, sums, exponents and mode: the training after it is the training without it."""
    clean, probed = (
        Trainer(Remembering(), regression_pairs(50), config(max_steps=2), loss_fn=mse, sync=Alone()) for _ in range(2)
    )
    replica = probed._replica
    batch, other = probed.data.batch(0, 0), probed.data.batch(0, 1)
    exponents = list(replica.exponents or ())
    first = replica.probe(batch)
    assert first == clean._replica.probe(batch) != replica.probe(other) and len(first) == 64
    assert probed.digest() == digest_of(Remembering()) and replica.exponents == exponents
    assert not replica._part.sums.any() and not replica._part.checks.any() and replica.intact
    clean.train()
    probed.train()
    assert probed.digest() == clean.digest()


def test_the_best_evaluation_is_kept_with_its_version() -> None:
    """The lowest of all so far, the closing one's too, and the newest beside it; the first of equals; NaN is none."""
    losses = {2: 3.0, 4: 1.0, 6: math.nan, 7: 1.0}
    trainer = gpt_trainer(Alone(), max_steps=7)
    seen: dict[int, tuple[float | None, tuple[float, int] | None]] = {}

    def evaluate(batch: Batch) -> Outcome:
        return Outcome(losses[trainer.version], batch.weight, batch.samples)

    trainer._replica.evaluate = evaluate  # type: ignore[method-assign]
    trainer.on_step_end = lambda state: seen.update({state.step: (trainer.eval_loss, trainer.best_eval)})
    trainer.train()
    assert seen[2] == (None, None) and seen[3] == (3.0, (3.0, 2))
    assert seen[5] == (1.0, (1.0, 4)) and math.isnan(seen[7][0] or 0.0) and seen[7][1] == (1.0, 4)
    assert (trainer.eval_loss, trainer.best_eval) == (1.0, (1.0, 4))
