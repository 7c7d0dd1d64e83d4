"""The loop: one version after another, the same on one process and on a tree of any shape.

A step, as data flows
  1. `data.batch(version, index)` gives each micro-batch dealt to this sphere; forward and backward add its gradient,
     as integers, to this sphere's own sums.
  2. The sums are reduced bucket by bucket in one fixed order, up and down the tree; during the last own micro-batch
     already, each bucket as soon as it is complete.
  3. The tail, entered only when all own buckets are complete, tells everybody the same: each micro-batch counted once,
     checksums, losses, flags, the newest order that all have seen.
  4. One verdict for all. If it is to take the step: mean, clip, optimizer, version + 1. Until then nothing has changed.
  5. The version is reported, without waiting.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from torch import Tensor

from .errors import ConfigError, NonFiniteError, ReductionError, RunEnded, StateError
from .fingerprint import fingerprint_of
from .metrics import Closing, StepReport, TrainingState
from .moments import Moments
from .optim import Schedule, warmup_cosine
from .replica import Replica, schedule_rate
from .status import TrainingStatus, move
from .step import Step
from .sync import Alone, GenerationEnded, Length, Position, Standing, Sync, Wanted
from .tail import Hopeless, NonFinite, Outcome, Repeat, Rescale, Suspicion, Tail, Update, decide, soundness
from .units import Units


class Loop:
    """Where a training stands, and what takes it further. Only `run` changes it."""

    def __init__(
        self,
        replica: Replica,
        units: Units,
        sync: Sync,
        schedule: Schedule | None,
        moments: Moments,
    ) -> None:
        self.status = TrainingStatus.IDLE
        self.state = TrainingState()
        self.eval_loss: float | None = None
        self.best_eval: tuple[float, int] | None = None
        self.fingerprint: dict[str, str] = {}
        self.config = replica.config
        self._replica = replica
        self._units = units
        self._sync = sync
        self._schedule = schedule
        self._moments = moments
        self._position = Position()
        self._in_force = Wanted()
        self._outcomes: dict[int, Outcome] = {}
        self._suspicion: Suspicion | None = None
        self._entered = self._admitted = self._closing = self._cut_short = False
        self._reported = self._closed = -1
        self._has_sums = False
        self._step: Step | None = None
        """The one being taken; it outlives the generation that it was begun in."""
        self._digest: str | None = None
        self._total = 0
        self._micro_batches = 0
        self._busy_s = 0.0
        self._tail_s = 0.0

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self._position.version

    def run(self, target: int, total: int, *, closing: bool) -> TrainingState:
        """From now to version `target`. The status says ERROR if anything is raised, and the last version is whole.

        total: the version at which the schedule ends. closing: agree on the last version, with its evaluation.
        """
        before = self.version
        if target < before:
            raise ConfigError(
                f"a number of epochs or steps must be >= 0, this one ends {before - target} steps ago [LW002]"
            )
        if self.status in (TrainingStatus.RUNNING, TrainingStatus.PAUSED, TrainingStatus.INITIALIZING):
            raise StateError(
                "this trainer is training already: train(), train_steps() and close() can't be called from one of its "
                "callbacks or from another thread; let the callback return first [LW807]"
            )
        self._cut_short = self.status is TrainingStatus.ERROR and closing and target == before
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
        except BaseException as error:
            self.status = TrainingStatus.ERROR
            self._suspicion = self._step = None
            self._replica.drop_mean()
            self._begin_position(self._position._replace(attempt=0))  # sums may hold a part of this step
            if not (isinstance(error, RunEnded) and error.status == "stopped"):
                self._moments.raised(error, self.version)
            raise
        whole = self.version > before and closing and not self._in_force.stopped
        self.status = move(self.status, TrainingStatus.COMPLETED if whole else TrainingStatus.IDLE)
        return self.state

    def close(self) -> None:
        """Agree on the last version, if that has not been done."""
        if self._entered and self._closed != self.version:
            self.run(self.version, self._total, closing=True)

    # ------------------------------------------------------------ between steps

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
            self._position, self._digest, tuple(sorted(self._outcomes)), self._has_sums, self._in_force.number
        )
        start = self._sync.begin(standing)
        if start.share:
            self._sync.share_state(self._replica.shared_state(), start)
            self._replica.take_buffers()
            self._digest = self._replica.digest()
        self._suspicion = None  # its members have changed: a flag must be seen twice among these
        if not start.keep:
            self._step = self._step if start.position.version == self.version else None
            self._begin_position(start.position)
        self._in_force = self._sync.wanted(max(self._in_force.number, start.in_force))
        self._entered = True
        self._tail_s = time.perf_counter()
        if self._reported < self.version:
            check, number = self._replica.check(), self._in_force.number
            self._reported = self.version
            self._sync.report(StepReport(self.version, check=check, digest=self._digest, in_force=number))

    def _admit(self, total: int) -> None:
        if self._admitted:
            return
        units, replica = self._units, self._replica
        fields = fingerprint_of(replica, self.config, units.data, units.eval_data)
        if not self._sync.alone:
            fields["probe"] = replica.probe(units.data.batch(0, 0))
        replica.send_to(self._sync.reduce, early=not self._sync.alone)
        self.fingerprint = fields
        length = Length(total, units.data.steps_per_epoch, replica.layout.gradient_bytes)
        self._sync.admit(fields, self.config, length)
        self._sync.finish, self._sync.kept = self.close, self._kept
        self._admitted = True

    def _honoured(self) -> Wanted:
        """The orders in force, after waiting out a pause."""
        if self._in_force.paused and not self._in_force.stopped:
            self.status = move(self.status, TrainingStatus.PAUSED)
            try:
                self._sync.progress(self._position, "paused")
                self._in_force = self._sync.wait_while_paused(self._in_force)
                self._tail_s = time.perf_counter()
            finally:
                self.status = move(self.status, TrainingStatus.RUNNING)
        return self._in_force

    def _go_on_after_a_stop(self) -> None:
        """Alone the call is the order to go on; on a tree the run is over for the script."""
        if not isinstance(self._sync, Alone):
            raise RunEnded("stopped", f"by order, at version {self.version}")
        self._in_force = self._sync.wanted(self._sync.order(stopped=False, paused=False))

    def _begin_position(self, position: Position) -> None:
        self._position, self._outcomes, self._has_sums = Position(*position), {}, False
        self._replica.begin()

    def _keep_training_units(self) -> None:
        """What a generation hands on are whole micro-batches of a step; evaluations are computed anew."""
        training = 0 if self._closing else self._units.training
        self._has_sums = False  # they lay on the wires of the generation that is gone
        self._replica.restore_buffers()
        self._outcomes = {unit: outcome for unit, outcome in self._outcomes.items() if unit < training}

    # ------------------------------------------------------------ a step

    def _take_step(self, target: int) -> None:
        """One version: compute what was dealt, sum it, agree, and only then change anything."""
        self._moments.step_begins(self.version)
        trace = self._replica.trace = self._sync.trace
        if trace is not None:
            trace.step_begins(self.version, self._total)
        step = self._step = self._step or Step(trace)
        training, evaluation = self._units.training, self._units.evaluation(self.version)
        while True:
            self._compute(training, evaluation, step)
            if not self._replica.intact:
                self._sync.unsound("own sums are no longer what was added to them [LW304]")
            sums = self._sync.reduced()
            if trace is not None:
                trace.lap("wait for the sums")
            self._has_sums = True
            tail = self._agree(training + evaluation, sums, step)
            match self._decide(tail, training):
                case Update() as update:
                    return self._commit(update, tail, sums, step, target)
                case Repeat(suspicion):
                    self._suspicion = suspicion
                case Rescale(exponents):
                    self._suspicion, self._replica.exponents = None, exponents
                case (NonFinite() | Hopeless()) as trouble:
                    step.trouble = self._skipped_or_raised(trouble)
                    return self._make_version(tail, step, target)
            self._begin_position(self._position._replace(attempt=self._position.attempt + 1))

    def _compute(self, training: int, evaluation: int, step: Step) -> None:
        """What was dealt to this sphere and is not yet done. Buckets leave in the backward of the last, but for a
        repetition: what it repeats may have left too early."""
        units = self._sync.deal(self._position, training, evaluation)
        self._replica.send_anew()
        self._replica.refuse_frozen()
        left = [unit for unit in units if unit not in self._outcomes]
        own = [unit for unit in left if unit < training]
        last = own[-1] if own and self._position.attempt == 0 else None
        step.watch.mark()
        self._sync.progress(self._position, "computing", len(self._outcomes), len(units))
        for unit in left:
            if unit >= training:
                self._outcomes[unit] = self._replica.evaluate(self._units.evaluation_batch(unit - training))
                step.lap("eval", unit - training)
                self._sync.progress(self._position, "computing", len(self._outcomes), len(units))
                continue
            batch = self._units.batch(self.version, unit)
            step.lap("data", unit)
            self._moments.batch_begins(self._position, unit, batch)
            outcome = self._outcomes[unit] = self._replica.compute(self.version, unit, batch, last=unit == last)
            step.count(outcome)
            self._moments.batch_ends(self._position, unit, outcome)
            step.lap("compute", unit)
            self._sync.progress(self._position, "computing", len(self._outcomes), len(units))
        step.busy_s = time.perf_counter() - self._tail_s
        if training:
            self._replica.finish()
        self._sync.progress(self._position, "reducing", len(self._outcomes), len(units))

    def _agree(self, units: int, sums: list[Tensor], step: Step) -> Tail:
        """The tail, summed over all and found sound; all own buckets are complete."""
        replica, sync = self._replica, self._sync
        own = replica.tail(self._outcomes, units, sync.rank, sync.members)
        own.members["digest"][sync.rank] = int(self._digest[:15], 16) if self._digest else 0
        own.members["busy_us"][sync.rank] = round(step.busy_s * 1e6)
        tail = sync.tail(own, self._position)
        self._tail_s = time.perf_counter()
        step.waited(tail)
        arrived = replica.checksums(sums) if replica.exact and sums and not sync.alone else None
        reason = soundness(tail, arrived, sync.name_of)
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

    def _commit(self, update: Update, tail: Tail, sums: list[Tensor], step: Step, target: int) -> None:
        """Everything that changes in a step, after all have agreed to it."""
        replica = self._replica
        schedule = self._schedule or warmup_cosine(self.config.warmup_steps, self._total)
        rate = schedule_rate(schedule, self.version + 1, self._in_force.learning_rate)
        step.loss, step.weight, step.cleared = update.loss, update.weight, update.cleared
        if update.weight:
            replica.take_mean(sums, update.weight, tail.fired.tolist())
            self._moments.gradient_stands(self._position, step, replica.statistics)
            replica.refuse_other_gradients()
            try:
                step.applied = replica.update(rate)
            except NonFiniteError as error:
                if self.config.nan_policy != "skip":
                    raise
                step.trouble, step.loss, step.weight = str(error), None, 0
                return self._make_version(tail, step, target)
        replica.adopt_buffers(sums)
        if replica.exact:
            replica.exponents = update.exponents
        self._make_version(tail, step, target)

    def _make_version(self, tail: Tail, step: Step, target: int) -> None:
        """The next version stands, with new weights or, skipped, with the old ones: number it, report it, tell it."""
        training = self._units.training
        eval_loss = self._evaluated(tail, training)
        epoch, attempts = self._units.data.epoch_of(self.version), self._position.attempt + 1
        seen = min(tail.members["seen"].tolist())
        self._in_force = self._sync.wanted(max(self._in_force.number, seen))
        self._suspicion = None
        self._begin_position(Position(self._position.lineage, self.version + 1))
        self._digest = self._replica.digest() if self._digest_due(target) else None
        step.lap("update")
        self._micro_batches += step.units
        self._busy_s += step.watch.of("data", "compute", "update", "eval")
        norm, rate, clip_ratio = step.applied or (None, None, None)
        self.state = TrainingState(self.version, epoch, step.loss, rate, norm)
        self._reported = self.version
        if self._sync.listens:
            suspects = ", ".join(self._sync.name_of(owner) for owner in step.cleared)
            self._sync.report(
                StepReport(
                    self.version, loss=step.loss, learning_rate=rate, grad_norm=norm, weight=step.weight,
                    samples=int(tail.units["samples"][:training].sum()), attempts=attempts,
                    skipped=step.applied is None, in_force=self._in_force.number, check=self._replica.check(),
                    digest=self._digest, epoch=epoch, eval_loss=eval_loss, suspect=suspects or None,
                    trouble=step.trouble, clip_ratio=clip_ratio, slowest=step.slowest, own_units=step.units,
                    own_samples=step.samples, own_weight=step.own_weight, seconds=step.watch.total(),
                )
            )  # fmt: skip
        self._step = None
        if step.trace is not None:
            step.trace.step_ends()
        self._moments.logs = self._sync.first
        self._moments.version_stands(self.state, step, self.eval_loss)

    def _kept(self, path: Path) -> None:
        """The last version was written."""
        self._moments.written(path, self.version, self._digest or "")

    def _evaluated(self, tail: Tail, training: int) -> float | None:
        """The loss of the evaluation in this tail, if there was one; the best is kept, with its version."""
        units = tail.units["weight"].size
        if units == training:
            return None
        loss, weight = tail.mean_loss(training, units)
        if loss is None or not weight:
            return None
        self.eval_loss = loss
        if math.isfinite(loss) and (self.best_eval is None or loss < self.best_eval[0]):
            self.best_eval = (loss, self.version)
        return loss

    def _digest_due(self, target: int) -> bool:
        every = self.config.verify_interval
        return self.version == target or self._in_force.stopped or bool(every and self.version % every == 0)

    def _skipped_or_raised(self, trouble: NonFinite | Hopeless) -> str:
        """The sentence for a step that is skipped by policy; raises where the policy or the trouble is another."""
        names = [slot.name for slot in self._replica.layout.slots]
        skips = self.config.nan_policy == "skip"
        if isinstance(trouble, NonFinite):
            told = trouble.told(names, self.version, self._sync.name_of(trouble.owner))
            if skips:
                return told
            raise NonFiniteError(told)
        told = trouble.told(names, self.version)
        if skips and trouble.stuck:  # beyond 1e27: as good as infinite
            return told
        raise ReductionError(told)

    def _close(self) -> None:
        """A tail without a step: the last version, and its evaluation, are agreed by all."""
        self._digest = self._replica.digest()
        self._replica.begin()
        step, evaluation = Step(), self._units.closing
        self._compute(0, evaluation, step)
        tail = self._agree(evaluation, [], step)
        loss = self._evaluated(tail, 0)
        weight = int(tail.units["weight"].sum())
        self._begin_position(self._position)
        self._closed = self.version
        if self._sync.trace is not None:
            self._sync.trace.write()
        reason = "stopped" if self._in_force.stopped or self._cut_short else "completed"
        closing = Closing(self.version, self._digest, reason, loss, weight, self._micro_batches, self._busy_s)
        self._sync.closed(closing, self._replica.model)
