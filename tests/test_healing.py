"""Generations that end at any point, lose members and take in others, move no bit."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from lightwatch.config import TrainingConfig
from lightwatch.sync import Alone, How, Wanted
from lightwatch.trainer import Trainer
from tests.healing import Break, ends_like, heal, hows, made_once, trained
from tests.models import byte_pairs, gpt_trainer, small_trainer, tiny_gpt

ALL = frozenset({"0", "1", "2"})


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """The reference: one process, never interrupted."""
    return trained(gpt_trainer)


# ------------------------------------------------------------ exchanges that some, or all, missed


@pytest.mark.parametrize("at", [(0, 0, 0), (0, 0, 1), (2, 0, 0), (4, 0, 0)])
@pytest.mark.parametrize("missed", [ALL, frozenset({"1"}), frozenset({"0", "2"})])
@pytest.mark.parametrize("where", ["reduced", "tail"])
def test_an_exchange_that_some_missed_moves_no_bit(
    where: str, missed: frozenset[str], at: tuple[int, int, int], alone: Trainer
) -> None:
    """Of the sums or of the tail, in a step with an evaluation, in one that is repeated, in the last one."""
    tree, trainers = heal(gpt_trainer, [Break(at, where, missed)])
    assert set(trainers) == ALL and ends_like(trainers, alone) and made_once(tree)
    if where == "tail" and missed != ALL:
        assert {path for path in ALL if hows(trainers[path])[-1] is How.RECORD} == missed


@pytest.mark.parametrize("missed", [ALL, frozenset({"1"}), frozenset({"0", "2"})])
def test_a_closing_tail_that_some_missed_is_closed_once(missed: frozenset[str], alone: Trainer) -> None:
    """They follow its record, evaluation and all; each tells the same end."""
    tree, trainers = heal(gpt_trainer, [Break((5, 0, 0), "tail", missed)])
    assert set(trainers) == ALL and ends_like(trainers, alone)
    assert {trainer._stepper.place.position for trainer in trainers.values()} == {(0, 5, 1, 0)}
    assert {path for path in ALL if hows(trainers[path])[-1] is How.RECORD} == (missed if missed != ALL else set())
    ((version, digest, eval_loss, weight),) = {
        (c.version, c.digest, c.eval_loss, c.eval_weight) for c in tree.closings.values()
    }
    assert (version, digest, weight) == (5, alone.digest(), 96) and eval_loss == alone.eval_loss is not None


def test_a_view_in_the_middle_of_a_step_costs_no_micro_batch(alone: Trainer) -> None:
    """Own sums are kept: over all spheres each micro-batch of each step is computed once."""
    tree, trainers = heal(gpt_trainer, [Break((v, 0, 0), "computing", by="1") for v in (1, 3)])
    assert ends_like(trainers, alone) and made_once(tree)
    computed = [sum(row.own_units for rows in tree.rows.values() for row in rows if row.version == v) for v in (2, 4)]
    assert computed == [5, 5]


def test_breaks_in_a_row_are_as_one(alone: Trainer) -> None:
    """Each kind after the other, at one position and at the next."""
    breaks = [
        Break((2, 0, 0), "computing", by="0"),
        Break((2, 0, 0), "reduced", frozenset({"2"})),
        Break((2, 0, 0), "tail", frozenset({"1"})),
        Break((3, 0, 0), "tail", frozenset({"0", "1"})),
        Break((5, 0, 0), "tail", frozenset({"2"})),
        Break((5, 1, 0), "left", by="1"),
    ]
    tree, trainers = heal(gpt_trainer, breaks)
    assert set(trainers) == ALL and ends_like(trainers, alone) and made_once(tree) and tree.generation == 7


@pytest.mark.parametrize("attempt", [0, 1, 2])
@pytest.mark.parametrize("missed", [frozenset({"1"}), frozenset({"0", "2"})])
def test_a_repetition_and_new_exponents_are_followed(attempt: int, missed: frozenset[str]) -> None:
    """A loss spike: the tail of attempt 0 repeats the step, that of 1 makes new exponents, that of 2 the version. Who
    misses one decides the same from its record; a flag that was seen once is forgotten with its generation."""

    def make(sync: Alone) -> Trainer:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            scale = 2.0**12 if trainer.version == 2 else 1.0
            return scale * nn.functional.cross_entropy(outputs.reshape(-1, 256), targets.reshape(-1))

        config = TrainingConfig(learning_rate=1e-3, warmup_steps=0, max_steps=4, micro_batches=4, batch_size=2)
        trainer = Trainer(tiny_gpt(), byte_pairs(40), config, loss_fn=loss, sync=sync)
        return trainer

    tree, trainers = heal(make, [Break((2, 0, attempt), "tail", missed)])
    assert set(trainers) == ALL and ends_like(trainers, trained(make)) and made_once(tree)
    assert all(hows(trainers[path])[-1] is How.RECORD for path in missed)
    assert next(row for row in tree.rows["0"] if row.version == 3).attempts >= 3


def test_a_skipped_step_is_followed() -> None:
    """Its record has no update: version and trouble are the same, and nobody's weights move."""

    def make(sync: Alone) -> Trainer:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            scale = float("nan") if trainer.version == 2 else 1.0
            return scale * nn.functional.mse_loss(outputs, targets)

        trainer = small_trainer(sync, loss_fn=loss, nan_policy="skip")
        return trainer

    for attempt in (0, 1):
        tree, trainers = heal(make, [Break((2, 0, attempt), "tail", frozenset({"1"}))])
        assert set(trainers) == ALL and ends_like(trainers, trained(make)) and made_once(tree)
        assert [row.skipped for row in tree.rows["1"] if row.version in (2, 3, 4)] == [False, True, False]


# ------------------------------------------------------------ spheres that die, spheres that come


@pytest.mark.parametrize("where", ["reduced", "tail"])
@pytest.mark.parametrize("missed", [frozenset(), frozenset({"0"}), frozenset({"0", "1"})])
def test_a_sphere_that_dies_in_an_exchange_moves_no_bit(where: str, missed: frozenset[str], alone: Trainer) -> None:
    """Whether all others had its result, one, or none: then the step is made again, by those who live."""
    tree, trainers = heal(gpt_trainer, [Break((2, 0, 0), where, missed, dies=frozenset({"2"}))])
    assert set(trainers) == {"0", "1"} and ends_like(trainers, alone) and made_once(tree)
    assert tree.generation == 2


@pytest.mark.parametrize("at", [(0, 0, 1), (2, 0, 0), (4, 0, 0), (5, 0, 0)])
@pytest.mark.parametrize("missed", [ALL, frozenset({"0"})])
def test_one_that_comes_takes_the_state_of_another(
    at: tuple[int, int, int], missed: frozenset[str], alone: Trainer
) -> None:
    """In a step, in its repetition, at the end: from then on it is like the others, in all that it holds and tells."""
    broken = Break(at, "tail", missed, dies=frozenset({"1"}), joins=("3",))
    tree, trainers = heal(gpt_trainer, [broken])
    assert set(trainers) == {"0", "2", "3"} and ends_like(trainers, alone) and made_once(tree)
    assert hows(trainers["3"]) == [How.FETCH] and tree.rows["3"][0].how == "fetch"
    assert tree.closings["3"].eval_loss == tree.closings["0"].eval_loss is not None


def test_one_that_comes_while_the_others_wait_for_the_end_closes_nothing_again(alone: Trainer) -> None:
    """They are holders: it fetches the last version, which is agreed."""
    tree, trainers = heal(gpt_trainer, [Break((5, 1, 0), "left", by="1", joins=("3",))])
    assert set(trainers) == {"0", "1", "2", "3"} and ends_like(trainers, alone)
    assert {trainer._stepper.place.position for trainer in trainers.values()} == {(0, 5, 1, 0)}
    assert tree.closings["3"].digest == alone.digest()
    assert tree.closings["3"].eval_loss == tree.closings["0"].eval_loss is not None


def test_a_fetch_that_fails_is_begun_anew(alone: Trainer) -> None:
    """Its donor died: nothing has changed at the one that came, and the next generation gives it another one."""
    breaks = [
        Break((2, 0, 0), "tail", frozenset({"1"}), joins=("3",)),
        Break((3, 0, 0), "fetch", by="3", dies=frozenset({"0"})),
    ]
    tree, trainers = heal(gpt_trainer, breaks)
    assert set(trainers) == {"1", "2", "3"} and ends_like(trainers, alone) and made_once(tree)
    assert hows(trainers["3"]) == [How.FETCH, How.FETCH]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_script_that_trains_twice_lines_up_for_one_that_comes_late(version: int) -> None:
    """Its first `train` returns at once if the others are past it, and is closed with theirs if they are not; calls
    count from where the script stands, not from where the others were met."""

    def make(sync: Alone) -> Trainer:
        return small_trainer(sync, data=None, max_steps=-1, micro_batches=4, batch_size=5)

    def act(trainer: Trainer) -> None:
        trainer.train()
        trainer.train_steps(1)
        trainer.train()

    reference = trained(make, act)
    assert reference.version == 5
    broken = Break((version, 1 if version == 2 else 0, 0), "tail", frozenset({"0"}), joins=("3",))
    _, trainers = heal(make, [broken], act=act)
    assert set(trainers) == {*ALL, "3"} and ends_like(trainers, reference)


def test_one_that_comes_for_the_closing_of_the_first_training_closes_the_second_too() -> None:
    def make(sync: Alone) -> Trainer:
        return small_trainer(sync, max_steps=-1, micro_batches=4, batch_size=5)

    def act(trainer: Trainer) -> None:
        trainer.train()
        trainer.train()

    for missed in (ALL, frozenset({"0"})):
        broken = Break((2, 0, 0), "tail", missed, joins=("3",))
        _, trainers = heal(make, [broken], act=act)
        assert set(trainers) == {*ALL, "3"} and ends_like(trainers, trained(make, act))


# ------------------------------------------------------------ orders, and replays


ORDERS = [(2, Wanted(1, learning_rate=0.5)), (3, Wanted(2, learning_rate=0.01))]


@pytest.fixture(scope="module")
def ordered() -> Trainer:
    """The reference of all runs with ORDERS: never broken."""
    _, trainers = heal(small_trainer, orders=ORDERS)
    assert not ends_like(trainers, trained(small_trainer))
    return trainers["0"]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_order_holds_from_the_same_version_whoever_missed_the_tail(version: int, ordered: Trainer) -> None:
    """One follows the record, one takes the state: what is in force comes with both."""
    broken = Break((version, 0, 0), "tail", frozenset({"0"}), dies=frozenset({"2"}), joins=("3",))
    tree, trainers = heal(small_trainer, [broken], orders=ORDERS)
    assert set(trainers) == {"0", "1", "3"} and ends_like(trainers, ordered) and made_once(tree)


@pytest.mark.parametrize("version", [1, 3, 5])
def test_a_replay_from_v0_obeys_the_orders_that_held_then(version: int, ordered: Trainer) -> None:
    """All are gone; those who come load v0, though they have heard all orders from the start."""
    broken = Break((version, 0, 0), "tail", ALL, dies=ALL, joins=("3", "4"))
    tree, trainers = heal(small_trainer, [broken], orders=ORDERS)
    assert set(trainers) == {"3", "4"} and ends_like(trainers, ordered) and made_once(tree)
    assert [tree.rows[path][0].how for path in ("3", "4")] == ["load", "load"]
