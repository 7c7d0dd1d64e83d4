"""Models, data and callers that are unlike the plain case, and must come out equal all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lightwatch.flat
from lightwatch.config import TrainingConfig
from lightwatch.errors import ConfigError, NonFiniteError, ReductionError
from lightwatch.flat import digest_of
from lightwatch.metrics import StepReport
from lightwatch.status import TrainingStatus
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, mlp, regression_pairs, small_trainer, tiny_gpt
from tests.trees import train_on_tree

mse = nn.functional.mse_loss


def config(**changes: object) -> TrainingConfig:
    values: dict[str, object] = {
        "learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 4, "micro_batches": 3, "batch_size": 4, "seed": 1,
    }  # fmt: skip
    return TrainingConfig.from_dict({**values, **changes})


# ------------------------------------------------------------ hooks that fire otherwise


class Deep(nn.Module):
    """A layer used twice, with or without recomputation of its activations."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.shared, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.2)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        for _ in range(2):
            x = self.run(nn.Sequential(self.shared, nn.Tanh(), self.drop), x)
        y: Tensor = self.last(x)
        return y


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y


def recomputed(reentrant: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda layer, x: checkpoint(layer, x, use_reentrant=reentrant)


@pytest.mark.parametrize("reduction", ["exact", "float"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_give_the_gradients_of_stored_ones(reentrant: bool, reduction: str) -> None:
    """Non-reentrant: bit for bit. Reentrant: a shared layer's hook fires twice, summed and counted as one gradient."""
    results = {}
    for name, run in (("stored", plain), ("recomputed", recomputed(reentrant))):
        trainer = Trainer(Deep(run), regression_pairs(50), config(reduction=reduction), loss_fn=mse)
        trainer.train()
        results[name] = (trainer.digest(), trainer.state().loss, list(trainer.model.parameters()))
    if not reentrant:
        assert results["recomputed"][0] == results["stored"][0]
    assert results["recomputed"][1] == pytest.approx(results["stored"][1], rel=1e-6)
    for mine, theirs in zip(results["recomputed"][2], results["stored"][2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_reentrant_recomputation_is_the_same_on_a_tree() -> None:
    def make(sync: Alone) -> Trainer:
        model = Deep(recomputed(True))
        model.drop.p = 0.0
        return Trainer(model, regression_pairs(50), config(), loss_fn=mse, sync=sync)

    assert len({t.digest() for tree in ("1", "a:2,b:1") for t in train_on_tree(tree, make)}) == 1


@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_two_backwards_in_one_loss_are_one_gradient(reduction: str) -> None:
    """A loss that takes a gradient of its own on the way (a penalty) is plain torch's for float, close for exact."""

    def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = mse(outputs, targets)
        (slope,) = torch.autograd.grad(loss, outputs, create_graph=True)
        return loss + slope.square().sum()

    model, reference = mlp(), mlp().double()
    pairs = regression_pairs(12)
    before = [p.detach().clone() for p in model.parameters()]
    trainer = Trainer(model, pairs, config(max_steps=1, reduction=reduction), loss_fn=penalised)
    total = torch.zeros(())
    for index in range(3):
        chosen = [pairs[i] for i in trainer.data.samples_of(0, index)]
        x, y = (torch.stack([pair[side] for pair in chosen]).double() for side in (0, 1))
        total = total + penalised(reference(x), y) / 3
    assert trainer.train().loss == pytest.approx(float(total.detach()), rel=1e-6)
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.cat([p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None]).norm()
    assert trainer.state().grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert not torch.equal(before[0], next(model.parameters()))


@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_gradients_that_somebody_left_are_not_summed(reduction: str) -> None:
    """A small backward of a callback's own, so small that no bound tells of it, moves no bit."""
    clean, littered = (small_trainer(reduction=reduction) for _ in range(2))

    def litter(_: object) -> None:
        (1e-3 * littered.model(torch.ones(1, 6))).sum().backward()

    litter(None)
    littered.on_step_end = litter
    clean.train()
    littered.train()
    assert littered.digest() == clean.digest()


# ------------------------------------------------------------ parameters that change


def freeze(model: nn.Module) -> None:
    model.get_parameter("2.bias").requires_grad_(False)


def add(model: nn.Module) -> None:
    model.extra = nn.Linear(1, 1)


def assign(model: nn.Module) -> None:
    model.load_state_dict(mlp(3).state_dict(), assign=True)


def move(model: nn.Module) -> None:
    model.to(torch.float64).to(torch.float32)


@pytest.mark.parametrize(
    ("change", "named"),
    [(freeze, "2.bias;"), (add, "extra.bias, extra.weight;"), (assign, "0.bias, 0.weight, 2.bias"), (move, "0.bias")],
)
def test_a_changed_set_of_parameters_is_refused_by_name(change: Callable[[nn.Module], None], named: str) -> None:
    """After the Trainer was made, frozen, added, assigned or moved ones would no longer be what is summed."""
    trainer = small_trainer()
    trainer.train_steps(1)
    change(trainer.model)
    with pytest.raises(ConfigError, match=f"trainable parameters changed after the Trainer was made: {named}"):
        trainer.train()
    assert trainer.version == 1 and trainer.status is TrainingStatus.ERROR


def test_loading_weights_in_place_is_no_change() -> None:
    trainer = small_trainer()
    trainer.model.load_state_dict(mlp(3).state_dict())
    assert trainer.digest() == digest_of(mlp(3))
    assert trainer.train().step == 6


def test_frozen_parameters_stay_and_count_in_the_digest() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    frozen = model[0].weight.detach().clone()  # type: ignore[operator]
    trainer = Trainer(model, regression_pairs(50), config(), loss_fn=mse)
    trainer.train()
    assert torch.equal(model[0].weight, frozen)  # type: ignore[arg-type]
    before = trainer.digest()
    with torch.no_grad():
        model[0].weight.add_(1.0)  # type: ignore[operator]
    assert trainer.digest() != before


# ------------------------------------------------------------ cuts, memory, order


@pytest.mark.parametrize("elements", [64, 1024])
def test_the_size_of_buckets_moves_no_bit(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are reduced in the order of their numbers, each once, on one process and on a tree."""
    whole = gpt_trainer(Alone())
    whole.train()
    monkeypatch.setattr(lightwatch.flat, "BUCKET_ELEMENTS", elements)
    reduced: list[int] = []

    class Watching(Alone):
        def reduce(self, bucket: Tensor) -> None:
            reduced.append(bucket.data_ptr())
            super().reduce(bucket)

    cut = gpt_trainer(Watching())
    cut.train()
    buckets = len(cut._replica.layout.buckets)
    assert buckets > 5 and reduced[:buckets] == sorted(set(reduced)) and len(reduced) % buckets == 0
    digests = {trainer.digest() for trainer in train_on_tree("2", gpt_trainer)}
    assert digests == {cut.digest()} == {whole.digest()}


class Odd(nn.Module):
    """`Linear(d, 1)`: a matrix-vector product, whose bits hang on its input's alignment."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(513, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


def shifted(tensor: Tensor, by: int) -> Tensor:
    """The same values at an odd place in numpy's memory."""
    array = np.zeros(tensor.numel() + by + 16, dtype=np.float32)
    array[by : by + tensor.numel()] = tensor.reshape(-1).numpy()
    return torch.from_numpy(array[by : by + tensor.numel()]).reshape(tensor.shape)


def test_where_the_data_lie_in_memory_moves_no_bit() -> None:
    """Collated into odd slices of numpy arrays, or given as a batch of one's own: the digest of aligned data."""
    generator = torch.Generator().manual_seed(2)
    pairs = [(torch.randn(513, generator=generator), torch.randn(1, generator=generator)) for _ in range(24)]
    digests = set()
    for by in (0, 1, 3, 7):

        def collate(samples: list[tuple[Tensor, Tensor]], by: int = by) -> tuple[Tensor, Tensor]:
            return shifted(torch.stack([x for x, _ in samples]), by), shifted(torch.stack([y for _, y in samples]), by)

        trainer = Trainer(Odd(), pairs, config(batch_size=1), loss_fn=mse, collate_fn=collate)
        trainer.train_steps(3)
        trainer.train_step(collate(pairs[:1]))
        digests.add(trainer.digest())
    assert len(digests) == 1


# ------------------------------------------------------------ nothing to learn, too much to learn


def test_a_step_in_which_nothing_weighs_makes_a_version_and_no_update() -> None:
    """All targets of a whole step ignored: weights, moments and exponents stay, on one process and on a tree."""
    reports: list[StepReport] = []

    def make(sync: Alone) -> Trainer:
        pairs = byte_pairs(24)
        trainer = Trainer(tiny_gpt(), pairs, config(max_steps=4), sync=sync)
        for index in range(3):
            for i in trainer.data.samples_of(1, index):
                pairs[i][1][:] = -100
        trainer.data.__dict__["fingerprint"] = "the same"
        return trainer

    def act(trainer: Trainer) -> None:
        trainer.train_steps(1)
        before, exponents = trainer.digest(), list(trainer._replica.exponents or ())
        state = trainer.train_steps(1)
        assert (state.step, state.loss, state.lr, state.grad_norm) == (2, None, None, None)
        assert (trainer.digest(), trainer._replica.exponents) == (before, exponents)
        trainer.train()
        assert set(trainer._replica.optimizer._counts.tolist()) == {3.0}  # type: ignore[union-attr]

    alone = make(Alone(reports.append))
    act(alone)
    assert [report.skipped for report in reports] == [False, False, True, False, False]
    assert {trainer.digest() for trainer in train_on_tree("4", make, act)} == {alone.digest()}


@pytest.mark.parametrize("reduction", ["exact", "float"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_in_either_reduction(reduction: str, what: str) -> None:
    """The loss itself, or one parameter's gradient; the weights are those before, and training may go on after."""
    sick = {"now": True}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = mse(outputs, targets)
        if sick["now"] and trainer.version == 2:
            return value * float("inf") if what == "gradient" else value + float("nan")
        return value

    clean, trainer = (
        Trainer(mlp(), regression_pairs(50), config(reduction=reduction), loss_fn=each) for each in (mse, loss)
    )
    clean.train()
    sentence = r"gradient of 2\.bias" if what == "gradient" else "the loss is NaN"
    with pytest.raises(NonFiniteError, match=rf"{sentence}.*micro-batch 0 of step 3"):
        trainer.train()
    assert (trainer.version, trainer.status) == (2, TrainingStatus.ERROR)
    sick["now"] = False
    trainer.train()
    assert trainer.digest() == clean.digest()


@pytest.mark.parametrize("reduction", ["exact", "float"])
def test_a_learning_rate_of_1e30_ends_with_a_named_error(reduction: str) -> None:
    """Weights blow up, then the loss or a gradient: told by name, never trained on."""
    trainer = Trainer(mlp(), regression_pairs(50), config(learning_rate=1e30, reduction=reduction), loss_fn=mse)
    with pytest.raises((NonFiniteError, ReductionError), match="step [123]"):
        trainer.train()
    assert trainer.version in (1, 2, 3) and all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_float_sums_that_overflow_where_no_summand_did_change_no_weight() -> None:
    """Each gradient is finite, their sum is not: told before anything has moved."""
    pairs = [(torch.ones(1), torch.ones(1)) for _ in range(4)]
    model = nn.Linear(1, 1)
    huge = config(reduction="float", micro_batches=4, batch_size=1, max_steps=1)
    trainer = Trainer(model, pairs, huge, loss_fn=lambda o, t: (o * 2e38).mean())
    before = trainer.digest()
    with pytest.raises(NonFiniteError, match="norm of the mean gradient is inf"):
        trainer.train()
    assert (trainer.version, trainer.digest()) == (0, before)


def test_gradients_of_1e30_are_summed_or_refused_by_name_and_never_wrap() -> None:
    """Far above what integers can hold: the step ends with the parameter's name, or within rounding of float's."""
    norms = {}
    for reduction in ("float", "exact"):
        large = config(max_steps=1, reduction=reduction)
        trainer = Trainer(mlp(), regression_pairs(50), large, loss_fn=lambda o, t: mse(o, t) * 1e15)
        norms[reduction] = trainer.train().grad_norm
    assert norms["exact"] == pytest.approx(norms["float"], rel=1e-4)
    huge = Trainer(mlp(), regression_pairs(50), config(max_steps=1), loss_fn=lambda o, t: mse(o, t) * 1e30)
    before = huge.digest()
    with pytest.raises(ReductionError, match=r"gradient of 2\.bias.* in step 1 is too large"):
        huge.train()
    assert (huge.version, huge.digest()) == (0, before)
