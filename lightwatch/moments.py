"""The moments of a training at which somebody is told: callbacks, the trainer's two attributes, the log.

Nothing here is in the middle of a change: whatever a callback raises, the last version is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from .callbacks import (
    BatchEnd,
    BatchStart,
    Callbacks,
    CallbackType,
    CheckpointWritten,
    EpochEnd,
    EpochStart,
    ErrorRaised,
    GradientSync,
)
from .data import Batch
from .metrics import TrainingState
from .statistics import GradientStatistics
from .step import Step
from .sync import Position
from .tail import Outcome

log = logging.getLogger("lightwatch")


class Moments:
    """Tells what happened, as it happens. An epoch is `steps_per_epoch` versions."""

    def __init__(self, steps_per_epoch: int, log_interval: int) -> None:
        self.callbacks = Callbacks()
        self.on_step_end: Callable[[TrainingState], None] | None = None
        self.on_epoch_end: Callable[[TrainingState], None] | None = None
        self.logs = True
        self._steps_per_epoch = steps_per_epoch
        self._log_interval = log_interval
        self._epoch_begun = -1
        self._epoch_loss = (0.0, 0)

    @property
    def heard(self) -> bool:
        """Whether anybody is told anything, and so might have changed the weights."""
        return bool(self.on_step_end or self.on_epoch_end or any(map(self.callbacks.wanted, CallbackType)))

    def facts(self) -> list[float]:
        """What an epoch's end will tell of the steps so far."""
        return [self._epoch_begun, *self._epoch_loss]

    def take(self, facts: list[float]) -> None:
        """Go on in the epoch in which another trainer's `facts` were asked for."""
        begun, total, weight = facts
        self._epoch_begun, self._epoch_loss = int(begun), (float(total), int(weight))

    def step_begins(self, version: int) -> None:
        """An epoch begins once, also when its first step is taken up again in another generation."""
        if self._epoch_begun == version or version % self._steps_per_epoch:
            return
        self._epoch_begun, self._epoch_loss = version, (0.0, 0)
        start = EpochStart(version // self._steps_per_epoch, version, self._steps_per_epoch)
        self.callbacks.fire(CallbackType.EPOCH_START, start)

    def batch_begins(self, position: Position, unit: int, batch: Batch) -> None:
        if self.callbacks.wanted(CallbackType.BATCH_START):
            start = BatchStart(position.version + 1, unit, batch, position.attempt)
            self.callbacks.fire(CallbackType.BATCH_START, start)

    def batch_ends(self, position: Position, unit: int, outcome: Outcome) -> None:
        if self.callbacks.wanted(CallbackType.BATCH_END):
            step, attempt = position.version + 1, position.attempt
            end = BatchEnd(step, unit, outcome.loss, outcome.weight, outcome.samples, attempt)
            self.callbacks.fire(CallbackType.BATCH_END, end)

    def gradient_stands(self, position: Position, step: Step, statistics: Callable[[], GradientStatistics]) -> None:
        """The mean gradient is there, and no weight has changed."""
        if self.callbacks.wanted(CallbackType.GRADIENT_SYNC):
            wait_s, reduce_s = step.watch.of("wait"), step.watch.of("reduce")
            gradient = GradientSync(position.version + 1, step.loss, step.weight, wait_s, reduce_s, statistics)
            self.callbacks.fire(CallbackType.GRADIENT_SYNC, gradient)

    def version_stands(self, state: TrainingState, step: Step, eval_loss: float | None) -> None:
        """Attributes before registered callbacks, a step before its epoch."""
        total, weight = self._epoch_loss
        total, weight = self._epoch_loss = (total + (step.loss or 0.0) * step.weight, weight + step.weight)
        self._log(state, step.trouble)
        epoch_ends = state.step % self._steps_per_epoch == 0
        if self.on_step_end:
            self.on_step_end(state)
        if step.applied is not None:
            self.callbacks.fire(CallbackType.WEIGHT_UPDATE, state)
        if self.on_epoch_end and epoch_ends:
            self.on_epoch_end(state)
        if epoch_ends:
            end = EpochEnd(state.epoch, state.step, total / weight if weight else None, eval_loss)
            self.callbacks.fire(CallbackType.EPOCH_END, end)

    def written(self, path: Path, version: int, digest: str) -> None:
        self.callbacks.fire(CallbackType.CHECKPOINT, CheckpointWritten(path, version, digest))

    def raised(self, error: BaseException, version: int) -> None:
        self.callbacks.fire(CallbackType.ERROR, ErrorRaised(error, version))

    def _log(self, state: TrainingState, trouble: str | None) -> None:
        if not self.logs:
            return
        if trouble:
            log.warning("step %d is skipped: %s", state.step, trouble)
        if state.step % self._log_interval == 0 and state.lr is not None:
            log.info("step %d  loss %.4f  lr %.3g  grad norm %.3g", state.step, state.loss, state.lr, state.grad_norm)
