"""The states of a trainer: which may follow which, and which it really has."""

from __future__ import annotations

import threading
from itertools import product

import pytest

from lightwatch.config import TrainingConfig
from lightwatch.errors import StateError
from lightwatch.status import TrainingStatus, move
from lightwatch.sync import Alone, Length
from lightwatch.trainer import Trainer
from tests.models import small_trainer

# Written down apart from the code's table: a row for each state, what may follow it.
LEGAL = """
IDLE           INITIALIZING CHECKPOINTING RESTORING
INITIALIZING   RUNNING RESTORING IDLE ERROR
RUNNING        PAUSED CHECKPOINTING RESTORING COMPLETED IDLE ERROR
PAUSED         RUNNING CHECKPOINTING RESTORING COMPLETED IDLE ERROR
CHECKPOINTING  RUNNING PAUSED COMPLETED IDLE ERROR
RESTORING      RUNNING PAUSED COMPLETED IDLE ERROR
COMPLETED      INITIALIZING CHECKPOINTING RESTORING
ERROR          INITIALIZING RESTORING
"""
TABLE = {row.split()[0]: row.split()[1:] for row in LEGAL.strip().splitlines()}


@pytest.mark.parametrize(("now", "then"), list(product(TABLE, TABLE)))
def test_a_move_is_legal_or_refused_with_what_would_be(now: str, then: str) -> None:
    """All 64: a legal one gives the new state, an illegal one raises and lists the legal ones."""
    present, wanted = TrainingStatus[now], TrainingStatus[then]
    if then in TABLE[now]:
        assert move(present, wanted) is wanted
        return
    with pytest.raises(StateError) as error:
        move(present, wanted)
    legal = ", ".join(sorted(TABLE[now]))
    assert str(error.value) == f"a trainer that is {now} can't become {then}; legal from here: {legal} [LW807]"


def test_the_table_has_every_state() -> None:
    assert set(TABLE) == {status.name for status in TrainingStatus}


def test_a_trainer_goes_through_its_states_in_order() -> None:
    """IDLE when made, INITIALIZING while it is admitted, RUNNING in its steps, COMPLETED at the end."""
    seen: list[TrainingStatus] = []

    class Watching(Alone):
        def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
            seen.append(trainer.status)

    trainer = small_trainer(Watching(), max_steps=2)
    assert trainer.status is TrainingStatus.IDLE
    trainer.on_step_end = lambda state: seen.append(trainer.status)
    trainer.train()
    assert [status.name for status in [*seen, trainer.status]] == ["INITIALIZING", "RUNNING", "RUNNING", "COMPLETED"]


def test_completed_means_that_work_was_done() -> None:
    """A call that makes no version leaves IDLE; so does one that goes on later, and one that was stopped."""
    nothing = small_trainer(max_steps=-1)
    nothing.train(0)
    assert (nothing.version, nothing.status) == (0, TrainingStatus.IDLE)
    some = small_trainer()
    some.train_steps(1)
    assert (some.version, some.status) == (1, TrainingStatus.IDLE)
    some.train()
    assert (some.version, some.status) == (6, TrainingStatus.COMPLETED)
    some.train()
    assert (some.version, some.status) == (6, TrainingStatus.IDLE)
    stopped = small_trainer()
    stopped.on_step_end = lambda state: stopped.stop()
    stopped.train()
    assert stopped.version < 6 and stopped.status is TrainingStatus.IDLE


def test_training_again_goes_on_from_the_last_version() -> None:
    """After COMPLETED the next epoch follows; two calls give the weights of one."""
    once, twice = (small_trainer(max_steps=-1, scheduler=lambda update: 1.0) for _ in range(2))
    once.train(2)
    twice.train(1)
    assert twice.status is TrainingStatus.COMPLETED
    twice.train(1)
    assert twice.version == once.version == 10 and twice.digest() == once.digest()


def failing_trainer() -> tuple[Trainer, dict[str, bool]]:
    """Its model raises in the second micro-batch of step 2 while told to."""
    told = {"fail": True}
    trainer = small_trainer()
    calls: list[int] = []

    def before_forward(*_: object) -> None:
        if trainer.version == 2:
            calls.append(1)
            if told["fail"] and len(calls) == 2:
                raise ArithmeticError("told to fail")

    trainer.model.register_forward_pre_hook(before_forward)
    return trainer, told


def test_a_failed_trainer_is_whole_and_may_train_again_to_the_same_bits() -> None:
    """ERROR with the last version's weights; the next call computes the step anew, and the end is a clean run's."""
    clean = small_trainer()
    clean.train()
    trainer, told = failing_trainer()
    with pytest.raises(ArithmeticError, match="told to fail"):
        trainer.train()
    assert (trainer.status, trainer.version) == (TrainingStatus.ERROR, 2)
    reference = small_trainer()
    reference.train_steps(2)
    assert trainer.digest() == reference.digest() and trainer.state() == reference.state()
    told["fail"] = False
    trainer.train()
    assert (trainer.status, trainer.digest()) == (TrainingStatus.COMPLETED, clean.digest())


def test_a_callback_that_raises_leaves_a_whole_version() -> None:
    clean, trainer = small_trainer(), small_trainer()
    clean.train()

    def raising(state: object) -> None:
        trainer.on_step_end = None
        raise ZeroDivisionError("the callback's")

    trainer.on_step_end = raising
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert (trainer.status, trainer.version) == (TrainingStatus.ERROR, 1)
    trainer.train()
    assert trainer.digest() == clean.digest()


def test_a_trainer_that_runs_cannot_be_run_within_itself_nor_beside_itself() -> None:
    """From a callback and from another thread: StateError. The outer training isn't harmed by the latter."""
    refused: list[str] = []
    trainer = small_trainer()

    def beside() -> None:
        with pytest.raises(StateError, match="from one of its callbacks or from another thread") as error:
            trainer.train_steps(1)
        refused.append(str(error.value))

    def callback(state: object) -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        beside()

    trainer.on_step_end = callback
    trainer.train()
    clean = small_trainer()
    clean.train()
    assert len(refused) == 12 and trainer.status is TrainingStatus.COMPLETED and trainer.digest() == clean.digest()
