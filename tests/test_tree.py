"""What is computed does not depend on the tree: spheres as threads over real gloo groups."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lightwatch.config import TrainingConfig
from lightwatch.errors import NonFiniteError, ReductionError
from lightwatch.sync import Alone, Position, Sick
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, tiny_gpt
from tests.trees import TREES, ThreadSync, train_on_tree


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """The reference: one process."""
    return train_on_tree("1", gpt_trainer)[0]


@pytest.mark.parametrize("tree", [tree for tree in TREES if tree != "1"])
def test_every_tree_gives_the_digest_of_one_process(tree: str, alone: Trainer) -> None:
    """Weights, loss, evaluation and gradient norm: the same bits on all spheres and on one process."""
    for trainer in train_on_tree(tree, gpt_trainer):
        assert trainer.digest() == alone.digest()
        assert trainer.state() == alone.state()
        assert trainer.eval_loss == alone.eval_loss


def random_deal(position: Position, training: int, members: Sequence[int]) -> dict[int, list[int]]:
    """Uneven, another one in each step; often nothing for somebody. The same for all spheres."""
    generator = random.Random(str(position))
    deal: dict[int, list[int]] = {member: [] for member in members}
    for unit in range(training):
        deal[generator.choice(members[: 1 + position.version % len(members)])].append(unit)
    for units in deal.values():
        generator.shuffle(units)
    return deal


@pytest.mark.parametrize("tree", ["1", "2", "a:2,b:1"])
def test_random_uneven_deals_give_the_same_digest(tree: str, alone: Trainer) -> None:
    """Who computes what, in which order, and who nothing at all, moves no bit."""
    for trainer in train_on_tree(tree, gpt_trainer, deal=random_deal):
        assert trainer.digest() == alone.digest()


class Stateful(nn.Module):
    """BatchNorm's buffers, a spectral norm's vectors that feed the next forward, and a branch that data decides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.BatchNorm1d(6)
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 10))
        self.rare = nn.Linear(10, 10)
        self.never = nn.Linear(10, 10)
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(x)).tanh()
        if float(x[0, 0].detach()) > 0:
            x = x + self.rare(x)
        out: Tensor = self.last(x)
        return out


def stateful_trainer(sync: Alone) -> Trainer:
    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(6, generator=generator), torch.randn(3, generator=generator)) for _ in range(62)]
    config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=6, micro_batches=4, batch_size=3)
    return Trainer(Stateful(), pairs, config, loss_fn=nn.functional.mse_loss, sync=sync)


def test_buffers_and_data_dependent_branches_do_not_follow_the_deal() -> None:
    """Buffers are those of micro-batch 0 wherever it ran; a parameter without a gradient in a step stays untouched."""
    reference = train_on_tree("1", stateful_trainer)[0]
    for tree, deal in (("3", None), ("2", random_deal), ("1", random_deal)):
        for trainer in train_on_tree(tree, stateful_trainer, deal=deal):
            assert trainer.digest() == reference.digest()
    untouched = Stateful()
    trained = reference.model
    assert isinstance(trained, Stateful)
    assert torch.equal(trained.never.weight, untouched.never.weight)
    assert not torch.equal(trained.rare.weight, untouched.rare.weight)
    assert not torch.equal(trained.norm.running_mean, untouched.norm.running_mean)  # type: ignore[arg-type]


def test_batch_norm_follows_micro_batch_0_as_plain_torch_does() -> None:
    """After a step the running statistics are those of a plain forward of micro-batch 0 alone."""
    trainer = stateful_trainer(Alone())
    batch = trainer.data.batch(0, 0)
    plain = Stateful()
    plain(batch.inputs)
    trainer.train_steps(1)
    trained = trainer.model
    assert isinstance(trained, Stateful)
    assert torch.equal(trained.norm.running_mean, plain.norm.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [-40, -12, 12, 40])
def test_a_loss_spike_is_summed_anew_and_alike_everywhere(power: int) -> None:
    """The loss of one step times 2^k: the step is repeated until its sums fit, with the same result on all trees."""

    def make(sync: Alone) -> Trainer:
        config = TrainingConfig(learning_rate=1e-3, warmup_steps=0, max_steps=4, micro_batches=4, batch_size=2)
        plain = nn.functional.cross_entropy
        version = 0

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            scale = 2.0**power if trainer.version == 2 else 1.0
            return scale * plain(outputs.reshape(-1, 256), targets.reshape(-1))

        trainer = Trainer(tiny_gpt(), byte_pairs(40), config, loss_fn=loss, sync=sync)
        assert version == 0
        return trainer

    attempts: list[int] = []

    def act(trainer: Trainer) -> None:
        trainer.on_step_end = lambda state: norms.append((state.step, state.grad_norm or 0.0))
        trainer.train()

    norms: list[tuple[int, float]] = []
    digests = {trainer.digest() for tree in ("1", "3") for trainer in train_on_tree(tree, make, act)}
    assert len(digests) == 1
    by_step = dict(norms)
    assert by_step[3] / 2.0**power == pytest.approx(by_step[2], rel=0.9)
    assert not attempts


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("unit", [0, 2, 3])
def test_nan_stops_all_spheres_alike_and_is_named(value: float, unit: int) -> None:
    """NaN or Inf in one element of one micro-batch: parameter, micro-batch, sphere and step; the weights stay."""
    caught: list[tuple[str, str]] = []

    def make(sync: Alone) -> Trainer:
        config = TrainingConfig(learning_rate=1e-3, warmup_steps=0, max_steps=4, micro_batches=4, batch_size=2)
        trainer = Trainer(tiny_gpt(), byte_pairs(40), config, sync=sync)
        compute = trainer._replica.compute
        weight = trainer._replica.layout.slots[3]

        def poisoned(version: int, index: int, batch: object, *, last: bool = False) -> object:
            if (version, index) != (2, unit):
                return compute(version, index, batch, last=last)  # type: ignore[arg-type]
            hook = weight.parameter.register_hook(lambda g: torch.full_like(g, value))  # type: ignore[no-untyped-call]
            try:
                return compute(version, index, batch, last=last)  # type: ignore[arg-type]
            finally:
                hook.remove()

        trainer._replica.compute = poisoned  # type: ignore[method-assign, assignment]
        return trainer

    def act(trainer: Trainer) -> None:
        with pytest.raises(NonFiniteError) as error:
            trainer.train()
        caught.append((trainer.digest(), str(error.value)))
        assert trainer.version == 2

    train_on_tree("1", make, act)
    train_on_tree("3", make, act)
    assert len(caught) == 4 and len({digest for digest, _ in caught}) == 1
    slot = make(Alone())._replica.layout.slots[3]
    for _, text in caught:
        assert f"gradient of {slot.name}" in text and f"micro-batch {unit} of step 3" in text


def test_a_flag_that_a_repetition_does_not_confirm_changes_no_bit(alone: Trainer) -> None:
    """One sphere computes NaN once: the step is repeated by others, the clean bits go on, the sphere is named."""
    reports: list[str] = []

    class Telling(ThreadSync):
        def report(self, report: object) -> None:
            if self.first and report.suspect:  # type: ignore[attr-defined]
                reports.append(report.suspect)  # type: ignore[attr-defined]

    def make(sync: Alone) -> Trainer:
        if isinstance(sync, ThreadSync):
            sync.__class__ = Telling
        trainer = gpt_trainer(sync)
        compute = trainer._replica.compute
        done: list[int] = []

        def sick(version: int, index: int, batch: object, *, last: bool = False) -> object:
            outcome = compute(version, index, batch, last=last)  # type: ignore[arg-type]
            if version == 3 and trainer.sync.rank == 1 and not done:
                done.append(1)
                trainer._replica._part.bounds += 2**60
            return outcome

        trainer._replica.compute = sick  # type: ignore[method-assign, assignment]
        return trainer

    for trainer in train_on_tree("3", make):
        assert trainer.digest() == alone.digest()


def test_a_flipped_bit_in_own_sums_or_weights_is_never_applied() -> None:
    """The checksum of the own sums, and the check over the weights in the tail, stop the step before it is taken."""

    def make(sync: Alone) -> Trainer:
        trainer = gpt_trainer(sync)
        compute = trainer._replica.compute
        flipped: list[int] = []

        def flipping(version: int, index: int, batch: object, *, last: bool = False) -> object:
            outcome = compute(version, index, batch, last=last)  # type: ignore[arg-type]
            if version == 2 and trainer.sync.rank == where["rank"] and not flipped:
                flipped.append(index)
                where["flip"](trainer)  # type: ignore[operator]
            return outcome

        trainer._replica.compute = flipping  # type: ignore[method-assign, assignment]
        return trainer

    def flip_sums(trainer: Trainer) -> None:
        trainer._replica._part.sums[5] ^= 1

    def flip_weights(trainer: Trainer) -> None:
        trainer._replica.layout.weights.view(torch.int32)[5] ^= 1

    where: dict[str, object] = {"rank": 0, "flip": flip_sums}
    with pytest.raises(ReductionError, match="own sums"):
        train_on_tree("1", make)
    with pytest.raises(Sick, match="own sums"):
        train_on_tree("3", make)
    where.update(rank=1, flip=flip_weights)
    with pytest.raises(Sick, match="the weights are not what"):
        train_on_tree("3", make)


def test_a_backward_outside_of_a_step_moves_no_bit(alone: Trainer) -> None:
    """A callback that leaves gradients behind, before the training and between its steps."""

    def act(trainer: Trainer) -> None:
        def diagnose(_: object) -> None:
            x = torch.zeros(1, 16, dtype=torch.int64)
            (1e-4 * trainer.model(x).sum()).backward()  # small, or the step would be repeated and so be clean

        diagnose(None)
        trainer.on_step_end = diagnose
        trainer.train()

    for tree in ("1", "3"):
        for trainer in train_on_tree(tree, gpt_trainer, act):
            assert trainer.digest() == alone.digest()


def test_buffers_do_not_follow_the_tree_when_the_first_micro_batch_weighs_nothing() -> None:
    """Its owner computes nothing and hands on the version's buffers, whatever it computed before."""

    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.norm = nn.BatchNorm1d(4)
            self.last = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.norm(x))
            return out

    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(4, generator=generator), torch.tensor(i % 5)) for i in range(24)]

    def make(sync: Alone) -> Trainer:
        config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=3, micro_batches=4, batch_size=2)
        trainer = Trainer(Picky(), pairs, config, sync=sync)
        for step in range(3):
            for number in trainer.data.samples_of(step, 0):
                trainer.data.dataset[number] = (pairs[number][0], torch.tensor(-100))
        return trainer

    digests = {trainer.digest() for tree in ("1", "2", "3", "4") for trainer in train_on_tree(tree, make)}
    assert len(digests) == 1
