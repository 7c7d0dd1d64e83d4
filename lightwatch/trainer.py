"""The training loop, the same on one process and on a tree of any shape.

A step, as data flows
  1. `data.batch(version, index)` gives each micro-batch dealt to this sphere; forward and backward add its gradient,
     as integers, to this sphere's own sums.
  2. The sums are reduced bucket by bucket in one fixed order, up and down the tree.
  3. The tail, entered only when all own buckets are complete, tells everybody the same: each micro-batch counted once,
     checksums, losses, flags, the newest order that all have seen.
  4. One verdict for all. If it is to take the step: mean, clip, optimizer, version + 1. Until then nothing has changed.
  5. The version is reported, without waiting.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from . import sync as seam
from .arithmetic import settle_arithmetic
from .config import TrainingConfig
from .data import Batch, Batches, aligned, weight_of
from .errors import ConfigError, NonFiniteError, ReductionError, RunEnded, StateError
from .fingerprint import fingerprint_of
from .metrics import Closing, StepReport, Stopwatch, TrainingState
from .optim import Schedule, warmup_cosine
from .replica import LossFunction, Replica, schedule_rate
from .status import TrainingStatus, move
from .sync import Alone, GenerationEnded, Length, Position, Standing, Sync, Wanted
from .tail import Hopeless, NonFinite, Outcome, Repeat, Rescale, Suspicion, Tail, Update, decide, soundness
from .units import Units

log = logging.getLogger("lightwatch")


class Trainer:
    """Trains `model` on `train_data`; alone, or on a tree when a worker runs the script. Uses both, copies neither.

    What is computed depends on config, data and seed alone: not on how many spheres there are, nor on the tree.

    model: float32 parameters on one device; seed torch before building it. train_data: map-style dataset of
    (inputs, targets). optimizer: over the model's parameters, else AdamW. scheduler: update number (from 1) -> factor
    on the learning rate, else warm-up and cosine. loss_fn: (outputs, targets) -> mean loss, else cross entropy.

    Sets for the whole process: torch's threads, deterministic algorithms, no flushing of denormals.
    """

    def __init__(
        self,
        model: nn.Module,
        train_data: Any,
        config: TrainingConfig | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Schedule | None = None,
        loss_fn: LossFunction | None = None,
        eval_data: Any = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        sync: Sync | None = None,
    ) -> None:
        self.config = config or TrainingConfig()
        settle_arithmetic(self.config.threads)
        if scheduler is not None and not callable(scheduler):
            raise ConfigError(
                f"scheduler must be a function from update number to a factor, got {type(scheduler).__name__}"
            )
        self.model = model
        self.data = self._batches(train_data, collate_fn)
        self.eval_data = None if eval_data is None else self._batches(eval_data, collate_fn)
        self.sync: Sync = sync or seam.current or Alone()
        self.status = TrainingStatus.IDLE
        self.on_step_end: Callable[[TrainingState], None] | None = None
        self.on_epoch_end: Callable[[TrainingState], None] | None = None
        self.eval_loss: float | None = None
        self._replica = Replica(model, self.config, optimizer, loss_fn)
        self._schedule = scheduler
        self._position = Position()
        self._state = TrainingState()
        self._in_force = Wanted()
        self._outcomes: dict[int, Outcome] = {}
        self._suspicion: Suspicion | None = None
        self._units = Units(self.config, self.data, self.eval_data)
        self._entered = self._admitted = self._closing = False
        self._reported = self._closed = -1
        self._sums: list[Tensor] | None = None
        self.fingerprint: dict[str, str] = {}
        self._digest: str | None = None
        self._total = 0
        self._micro_batches = 0
        self._busy_s = 0.0

    def train(self, num_epochs: int | None = None) -> TrainingState:
        """Train until `max_steps`, or for `num_epochs` if they end first; one epoch if neither is given.

        Blocks. Ends with an evaluation of the last version. Raises NonFiniteError; RunEnded if control ended the run.
        """
        most = self.config.max_steps
        target = most
        if num_epochs is not None or most < 0:
            target = self.version + (1 if num_epochs is None else num_epochs) * self.data.steps_per_epoch
            target = min(target, most) if most > 0 else target
        return self._run(target, target, closing=True)

    def train_steps(self, count: int) -> TrainingState:
        """Make `count` more versions, fewer if `max_steps` comes first. Blocks."""
        most = self.config.max_steps
        target = min(self.version + count, most) if most > 0 else self.version + count
        return self._run(target, most if most > 0 else self.data.steps_per_epoch, closing=False)

    def train_step(self, batch: tuple[Any, Any]) -> TrainingState:
        """One update from a batch of one's own, (inputs, targets). For one process only."""
        if not self.sync.alone:
            raise StateError("train_step(batch) would give each sphere another batch; on a tree call train_steps(n)")
        inputs, targets = map(aligned, batch)
        samples = len(targets) if hasattr(targets, "__len__") else 1
        self._units.given = Batch(inputs, targets, weight_of(targets, samples), samples)
        try:
            return self.train_steps(1)
        finally:
            self._units.given = None

    def close(self) -> None:
        """End a training that was driven by `train_steps`: agree on the last version. Does nothing after `train`."""
        if self._entered and self._closed != self.version:
            self._run(self.version, self._total, closing=True)

    def state(self) -> TrainingState:
        """Where training stands now, a frozen copy."""
        return self._state

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self._position.version

    def digest(self) -> str:
        """sha256 over parameters, then buffers: the name of this version in every run of the same config."""
        return self._replica.digest()

    def pause(self) -> None:
        """Stop at the next step boundary and keep everything; `resume` from another thread or a callback goes on."""
        self._order(paused=True)

    def resume(self) -> None:
        self._order(paused=False)

    def stop(self) -> None:
        """End at the next step boundary, as if `max_steps` were there."""
        self._order(stopped=True)

    def set_learning_rate(self, learning_rate: float) -> None:
        """The base rate from the step after the next boundary on; the schedule still multiplies it."""
        if not 0 <= learning_rate < math.inf:
            raise ConfigError(f"a learning rate must be finite and >= 0, got {learning_rate}")
        self._order(learning_rate=float(learning_rate))

    # ------------------------------------------------------------ the loop

    def _run(self, target: int, total: int, *, closing: bool) -> TrainingState:
        """From now to version `target`. The status says ERROR if anything is raised, and the last version is whole."""
        before = self.version
        if target < before:
            raise ConfigError(f"a number of epochs or steps must be >= 0, this one ends {before - target} steps ago")
        self.status = move(self.status, TrainingStatus.INITIALIZING)
        try:
            self._total, self._digest = total, None
            self._replica.refuse_changes()
            self._replica.take_buffers()
            if self._in_force.stopped and target > before:
                self._go_on_after_a_stop()
            self._admit(total)
            self.status = move(self.status, TrainingStatus.RUNNING)
            self._advance(target, closing)
        except BaseException:
            self.status = TrainingStatus.ERROR
            self._suspicion = None
            self._begin_position(self._position._replace(attempt=0))  # sums may hold a part of this step
            raise
        whole = self.version > before and closing and not self._in_force.stopped
        self.status = move(self.status, TrainingStatus.COMPLETED if whole else TrainingStatus.IDLE)
        return self.state()

    def _advance(self, target: int, closing: bool) -> None:
        """Steps until the target or a stop; when the tree is formed anew, from where this sphere stands."""
        while True:
            try:
                self._closing = False
                if not self._entered:
                    self._enter()
                while self.version < target and not self._honoured().stopped:
                    self._take_step(target)
                self._closing = closing
                if closing:
                    self._close()
                return
            except GenerationEnded:
                self._entered = False
                self._keep_training_units()

    def _enter(self) -> None:
        """Answer the roll call, take the state if it has to be taken, and be part of the tree."""
        self._digest = self._replica.digest()
        standing = Standing(
            self._position, self._digest, tuple(sorted(self._outcomes)), self._sums is not None, self._in_force.number
        )
        start = self.sync.begin(standing)
        if start.share:
            self.sync.share_state(self._replica.shared_state(), start)
            self._replica.take_buffers()
            self._digest = self._replica.digest()
        self._suspicion = None  # its members have changed: a flag must be seen twice among these
        if not start.keep:
            self._begin_position(start.position)
        self._in_force = self.sync.wanted(max(self._in_force.number, start.in_force))
        self._entered = True
        if self._reported < self.version:
            check, number = self._replica.check(), self._in_force.number
            self._reported = self.version
            self.sync.report(StepReport(self.version, check=check, digest=self._digest, in_force=number))

    def _take_step(self, target: int) -> None:
        """One version: compute what was dealt, sum it, agree, and only then change anything."""
        watch = Stopwatch()
        training, evaluation = self._units.training, self._units.evaluation(self.version)
        while True:
            self._compute(training, evaluation, watch)
            if not self._replica.intact():
                self.sync.unsound("own sums are no longer what was added to them")
            self._sums = sums = [self.sync.reduce(bucket) for bucket in self._replica.buckets()]
            tail = self._agree(training + evaluation, sums)
            watch.lap("reduce")
            match self._decide(tail, training):
                case Update() as update:
                    watch.mark()
                    return self._commit(update, tail, sums, watch, target)
                case Repeat(suspicion):
                    self._suspicion = suspicion
                case Rescale(exponents):
                    self._suspicion, self._replica.exponents = None, exponents
                case (NonFinite() | Hopeless()) as trouble:
                    self._stop_for(trouble)
            self._begin_position(self._position._replace(attempt=self._position.attempt + 1))

    def _compute(self, training: int, evaluation: int, watch: Stopwatch) -> None:
        units = self.sync.deal(self._position, training, evaluation)
        self.sync.progress(self._position, "computing", len(self._outcomes), len(units))
        watch.mark()
        for unit in units:
            if unit in self._outcomes:
                continue
            self.sync.progress(self._position, "computing", len(self._outcomes), len(units))
            if unit >= training:
                self._outcomes[unit] = self._replica.evaluate(self._units.evaluation_batch(unit - training))
                watch.lap("eval")
                continue
            batch = self._units.batch(self.version, unit)
            watch.lap("data")
            self._outcomes[unit] = self._replica.compute(self.version, unit, batch)
            self._micro_batches += 1
            watch.lap("compute")
        self.sync.progress(self._position, "reducing", len(self._outcomes), len(units))

    def _agree(self, units: int, sums: list[Tensor]) -> Tail:
        """The tail, summed over all and found sound; all own buckets are complete."""
        replica, sync = self._replica, self.sync
        own = replica.tail(self._outcomes, units, sync.rank, sync.members)
        own.members["digest"][sync.rank] = int(self._digest[:15], 16) if self._digest else 0
        tail = sync.tail(own, self._position)
        reason = soundness(tail, replica.checksums(sums) if replica.exact and sums else None, sync.name_of)
        if reason:
            sync.unsound(reason)
        return tail

    def _decide(self, tail: Tail, training: int) -> Update | Repeat | Rescale | NonFinite | Hopeless:
        return decide(
            tail,
            exponents=self._replica.exponents,
            headroom_bits=self.config.headroom_bits,
            attempt=self._position.attempt,
            suspicion=self._suspicion,
            training_units=training,
        )

    def _commit(self, update: Update, tail: Tail, sums: list[Tensor], watch: Stopwatch, target: int) -> None:
        """Everything that changes in a step, after all have agreed to it."""
        version, training = self.version + 1, self._units.training
        schedule = self._schedule or warmup_cosine(self.config.warmup_steps, self._total)
        rate = schedule_rate(schedule, version, self._in_force.learning_rate)
        applied = self._replica.commit(sums, update.weight, tail.fired.tolist(), rate)
        if self._replica.exact:
            self._replica.exponents = update.exponents
        eval_loss, eval_weight = tail.mean_loss(training, tail.units["weight"].size)
        self.eval_loss = eval_loss if eval_weight else self.eval_loss
        epoch, attempts = self.data.epoch_of(self.version), self._position.attempt + 1
        self._in_force = self.sync.wanted(max(self._in_force.number, int(tail.members["seen"].min())))
        samples = int(tail.units["samples"][:training].sum())
        self._suspicion = None
        self._begin_position(Position(self._position.lineage, version))
        self._digest = self._replica.digest() if self._digest_due(target) else None
        watch.lap("update")
        norm, lr = applied or (None, None)
        self._state = TrainingState(version, epoch, update.loss, lr, norm)
        self._busy_s += sum(watch.seconds.get(name, 0.0) for name in ("data", "compute", "update", "eval"))
        suspects = ", ".join(self.sync.name_of(owner) for owner in update.cleared)
        self._reported = version
        self.sync.report(
            StepReport(
                version, loss=update.loss, learning_rate=lr, grad_norm=norm, weight=update.weight, samples=samples,
                attempts=attempts, skipped=applied is None, in_force=self._in_force.number,
                check=self._replica.check(), digest=self._digest, epoch=epoch,
                eval_loss=eval_loss, suspect=suspects or None, seconds=watch.total(),
            )
        )  # fmt: skip
        self._tell()

    def _close(self) -> None:
        """A tail without a step: the last version, and its evaluation, are agreed by all."""
        self._digest = self._replica.digest()
        self._replica.begin()
        evaluation = self._units.closing
        self._compute(0, evaluation, Stopwatch())
        tail = self._agree(evaluation, [])
        loss, weight = tail.mean_loss(0, evaluation)
        self.eval_loss = loss if weight else self.eval_loss
        self._begin_position(self._position)
        self._closed = self.version
        reason = "stopped" if self._in_force.stopped else "completed"
        closing = Closing(self.version, self._digest, reason, loss, weight, self._micro_batches, self._busy_s)
        self.sync.closed(closing, self.model)

    def _go_on_after_a_stop(self) -> None:
        """Alone the call is the order to go on; on a tree the run is over for the script."""
        if not isinstance(self.sync, Alone):
            raise RunEnded("stopped", f"by order, at version {self.version}")
        self._in_force = self.sync.wanted(self.sync.order(stopped=False, paused=False))

    def _keep_training_units(self) -> None:
        """What a generation hands on are whole micro-batches of a step; evaluations are computed anew."""
        training = 0 if self._closing else self._units.training
        self._replica.restore_buffers()
        self._outcomes = {unit: outcome for unit, outcome in self._outcomes.items() if unit < training}

    def _admit(self, total: int) -> None:
        if self._admitted:
            return
        fields = fingerprint_of(self._replica, self.config, self.data, self.eval_data)
        if not self.sync.alone:
            fields["probe"] = self._replica.probe(self.data.batch(0, 0))
        self.fingerprint = fields
        self.sync.admit(fields, self.config, Length(total, self.data.steps_per_epoch))
        self.sync.finish = self.close
        self._admitted = True

    def _begin_position(self, position: Position) -> None:
        self._position, self._outcomes, self._sums = Position(*position), {}, None
        self._replica.begin()

    def _honoured(self) -> Wanted:
        """The orders in force, after waiting out a pause."""
        if self._in_force.paused and not self._in_force.stopped:
            self.status = move(self.status, TrainingStatus.PAUSED)
            try:
                self.sync.progress(self._position, "paused")
                self._in_force = self.sync.wait_while_paused(self._in_force)
            finally:
                self.status = move(self.status, TrainingStatus.RUNNING)
        return self._in_force

    def _stop_for(self, trouble: NonFinite | Hopeless) -> NoReturn:
        names = [slot.name for slot in self._replica.layout.slots]
        if isinstance(trouble, Hopeless):
            raise ReductionError(trouble.told(names, self.version))
        raise NonFiniteError(trouble.told(names, self.version, self.sync.name_of(trouble.owner)))

    def _digest_due(self, target: int) -> bool:
        every = self.config.verify_interval
        return self.version == target or self._in_force.stopped or bool(every and self.version % every == 0)

    def _tell(self) -> None:
        """Callbacks and the log, after the version stands."""
        state = self._state
        if self.sync.first and state.step % self.config.log_interval == 0 and state.loss is not None:
            log.info("step %d  loss %.4f  lr %.3g  grad norm %.3g", state.step, state.loss, state.lr, state.grad_norm)
        if self.on_step_end:
            self.on_step_end(state)
        if self.on_epoch_end and state.step % self.data.steps_per_epoch == 0:
            self.on_epoch_end(state)

    def _order(self, **changes: object) -> None:
        if not isinstance(self.sync, Alone):
            raise StateError("on a tree orders go to control: `lightwatch pause|resume|stop`, or a ControlClient")
        self.sync.order(**changes)

    def _batches(self, data: Any, collate_fn: Callable[[list[Any]], Any] | None) -> Batches:
        c = self.config
        return Batches(data, seed=c.seed, micro_batches=c.micro_batches, batch_size=c.batch_size, collate_fn=collate_fn)
