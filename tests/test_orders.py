"""pause, resume, stop and set_learning_rate on one process: from another thread and from a callback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lightwatch.errors import ConfigError, StateError
from lightwatch.metrics import TrainingState
from lightwatch.optim import warmup_cosine
from lightwatch.status import TrainingStatus
from lightwatch.sync import Alone, Wanted
from lightwatch.trainer import Trainer
from tests.models import small_trainer

DEADLINE_S = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


@contextmanager
def training(trainer: Trainer) -> Iterator[threading.Thread]:
    """`train` in a thread of its own, which has ended afterwards whatever happened."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            trainer.train()
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    except BaseException:
        trainer.stop()
        raise
    finally:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def during(trainer: Trainer, version: int, act: Callable[[], object]) -> None:
    """Have another thread call `act` while the step after `version` is being computed, and wait until it has."""
    done: list[int] = []

    def before_forward(*_: object) -> None:
        if trainer.version == version and not done:
            done.append(1)
            thread = threading.Thread(target=act)
            thread.start()
            thread.join(DEADLINE_S)

    trainer.model.register_forward_pre_hook(before_forward)


@pytest.fixture(scope="module")
def digest() -> str:
    """Of the run that nobody disturbed."""
    trainer = small_trainer()
    trainer.train()
    return trainer.digest()


def rates_of(trainer: Trainer) -> list[float]:
    rates: list[float] = []
    trainer.on_step_end = lambda state: rates.append(state.lr or 0.0)
    return rates


def test_a_paused_trainer_stands_still_and_goes_on_with_the_same_data(digest: str) -> None:
    """Paused from another thread at the next boundary; the version stays through other orders; the bits are equal."""
    trainer = small_trainer()
    during(trainer, 2, trainer.pause)
    with training(trainer) as thread:
        wait_until(lambda: trainer.status is TrainingStatus.PAUSED)
        assert trainer.version == trainer.state().step == 3
        trainer.pause()
        thread.join(0.05)  # ten steps' time
        assert trainer.version == trainer.state().step == 3 and thread.is_alive()
        trainer.resume()
    assert (trainer.version, trainer.digest(), trainer.status.name) == (6, digest, "COMPLETED")


def test_a_pause_from_a_callback_holds_from_the_next_boundary(digest: str) -> None:
    trainer = small_trainer()
    trainer.on_step_end = lambda state: trainer.pause() if state.step == 2 else None
    with training(trainer):
        wait_until(lambda: trainer.status is TrainingStatus.PAUSED)
        assert trainer.version == 3
        trainer.resume()
    assert trainer.digest() == digest


def test_a_pause_taken_back_before_the_boundary_is_none(digest: str) -> None:
    """Orders are one wanted state: what holds at the boundary is the newest."""
    trainer = small_trainer()

    def both() -> None:
        trainer.pause()
        trainer.resume()

    during(trainer, 2, both)
    trainer.train()
    assert (trainer.version, trainer.digest()) == (6, digest)


@pytest.mark.parametrize("from_callback", [True, False])
def test_a_stop_ends_at_the_next_boundary_and_training_again_goes_on(from_callback: bool, digest: str) -> None:
    """Closed as stopped, IDLE, the last version whole; the next call is the order to go on, to the undisturbed bits."""
    sync = Alone()
    trainer = small_trainer(sync)
    if from_callback:
        trainer.on_step_end = lambda state: trainer.stop() if state.step == 2 else None
    else:
        during(trainer, 2, trainer.stop)
    state = trainer.train()
    assert (state.step, trainer.status) == (3, TrainingStatus.IDLE)
    assert sync.closing is not None
    assert (sync.closing.reason, sync.closing.version, sync.closing.digest) == ("stopped", 3, trainer.digest())
    trainer.train()
    assert (trainer.version, trainer.status, trainer.digest()) == (6, TrainingStatus.COMPLETED, digest)
    assert sync.closing is not None and sync.closing.reason == "completed"


def test_a_stop_also_ends_train_steps_and_the_next_call_goes_on(digest: str) -> None:
    trainer = small_trainer()
    trainer.on_step_end = lambda state: trainer.stop() if state.step == 1 else None
    assert trainer.train_steps(4).step == 2
    assert trainer.train_steps(4).step == 6
    assert trainer.digest() == digest


def test_a_stop_ends_a_pause() -> None:
    trainer = small_trainer()
    during(trainer, 1, trainer.pause)
    with training(trainer):
        wait_until(lambda: trainer.status is TrainingStatus.PAUSED)
        trainer.stop()
    assert (trainer.version, trainer.status) == (2, TrainingStatus.IDLE)


def test_orders_before_training_are_not_lost() -> None:
    """They hold from the first boundary at the latest."""
    trainer = small_trainer()
    trainer.stop()
    assert trainer.train().step <= 1
    paused = small_trainer()
    paused.pause()
    with training(paused):
        wait_until(lambda: paused.status is TrainingStatus.PAUSED)
        assert paused.version <= 1
        paused.resume()
    assert paused.version == 6


@pytest.mark.parametrize("from_callback", [True, False])
def test_a_learning_rate_takes_the_bases_place_from_the_step_after_the_next_boundary(from_callback: bool) -> None:
    """The schedule goes on multiplying it; ordered while step 3 is computed, update 4 is the first to use it."""
    trainer = small_trainer()
    rates = rates_of(trainer)
    if from_callback:

        def callback(state: TrainingState) -> None:
            rates.append(state.lr or 0.0)
            if state.step == 2:
                trainer.set_learning_rate(0.5)

        trainer.on_step_end = callback
    else:
        during(trainer, 2, lambda: trainer.set_learning_rate(0.5))
    trainer.train()
    factor = warmup_cosine(2, 6)
    assert rates == [(1e-2 if k <= 3 else 0.5) * factor(k) for k in range(1, 7)]


def test_a_learning_rate_ordered_in_a_pause_holds_from_the_next_step() -> None:
    trainer = small_trainer()
    rates = rates_of(trainer)
    during(trainer, 1, trainer.pause)
    with training(trainer):
        wait_until(lambda: trainer.status is TrainingStatus.PAUSED)
        trainer.set_learning_rate(0.25)
        trainer.resume()
    factor = warmup_cosine(2, 6)
    assert rates == [(1e-2 if k <= 2 else 0.25) * factor(k) for k in range(1, 7)]


def test_a_rate_of_zero_moves_no_weight() -> None:
    trainer = small_trainer()
    trainer.set_learning_rate(0.0)
    trainer.train_steps(1)
    before = trainer.digest()
    trainer.train()
    assert trainer.version == 6 and trainer.digest() == before


@pytest.mark.parametrize("rate", [-1e-9, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused(rate: float) -> None:
    trainer = small_trainer()
    with pytest.raises(ConfigError, match="finite and >= 0"):
        trainer.set_learning_rate(rate)
    assert trainer._stepper.place.in_force == Wanted()


class Tree:
    """A seam that isn't `Alone`, with all of its methods."""

    alone = False

    def __init__(self) -> None:
        self._alone = Alone()

    def __getattr__(self, name: str) -> object:
        return getattr(self._alone, name)


def test_on_a_tree_orders_go_to_control() -> None:
    """A sphere alone can't order its siblings about; the sentence says who can."""
    trainer = small_trainer(Tree())  # type: ignore[arg-type]
    for order in (trainer.pause, trainer.resume, trainer.stop):
        with pytest.raises(StateError, match="ControlClient"):
            order()
    with pytest.raises(StateError, match="ControlClient"):
        trainer.set_learning_rate(0.1)


def test_orders_are_numbered_wanted_states_that_hold_all_before_them() -> None:
    """Order n is the sum of orders 1 to n."""
    sync = Alone()
    assert sync.wanted(0) == Wanted()
    assert [sync.order(paused=True), sync.order(learning_rate=0.5), sync.order(paused=False)] == [1, 2, 3]
    assert sync.wanted(2) == Wanted(2, paused=True, learning_rate=0.5)
    assert sync.wanted(3) == Wanted(3, paused=False, learning_rate=0.5)
