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

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import ConfigError, NonFiniteError, ReductionError, RunEnded, StateError
from .evaluations import Evaluations
from .fingerprint import fingerprint_of
from .metrics import Closing, StepReport, TrainingState
from .moments import Moments
from .optim import Schedule, warmup_cosine
from .place import Agreed, Place
from .replica import Replica, schedule_rate
from .snapshot import Snapshot, apart, together
from .status import TrainingStatus, move
from .step import Step
from .sync import Alone, GenerationEnded, How, Length, Position, Sick, Start, Sync
from .tail import Hopeless, NonFinite, Repeat, Rescale, Update, decide, soundness
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
        self.evaluations = Evaluations()
        self.fingerprint: dict[str, str] = {}
        self.config = replica.config
        self.reached = 0
        """The version to which the script's calls have come: one that came late finds others ahead of its script."""
        self._replica = replica
        self._units = units
        self._sync = sync
        self._schedule = schedule
        self._moments = moments
        self._place = Place()
        self._entered = self._admitted = self._closing = self._cut_short = self._stopped = self._finished = False
        self._reported = -1
        self._closings = 0
        """Of the closing tails at this version, those that the script has met."""
        self._step: Step | None = None
        """The one being taken; it outlives the generation that it was begun in."""
        self._digest: str | None = None
        self._target = self._total = 0
        self._micro_batches = 0
        self._busy_s = 0.0
        self._tail_s = 0.0

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self._place.position.version

    def run(self, target: int, total: int, *, closing: bool) -> TrainingState:
        """From where the script stands to version `target`; nothing is done if the others are past it, for this sphere
        came late. The status says ERROR if anything is raised, and the last version is whole.

        total: the version at which the schedule ends. closing: agree on the last version, with its evaluation.
        """
        before = self.version
        if target < self.reached:
            ago = self.reached - target
            raise ConfigError(f"a number of epochs or steps must be >= 0, this one ends {ago} steps ago [LW002]")
        if self.status in (TrainingStatus.RUNNING, TrainingStatus.PAUSED, TrainingStatus.INITIALIZING):
            raise StateError(
                "this trainer is training already: train(), train_steps() and close() can't be called from one of its "
                "callbacks or from another thread; let the callback return first [LW807]"
            )
        self._cut_short = self.status is TrainingStatus.ERROR and closing and target == before
        self.status = move(self.status, TrainingStatus.INITIALIZING)
        try:
            self._target, self._total = target, total
            self._replica.refuse_changes()
            self._replica.take_buffers()
            if self._stopped and target > before:
                self._go_on_after_a_stop()
            self._admit(total)
            self.status = move(self.status, TrainingStatus.RUNNING)
            self._advance(target, closing)
        except BaseException as error:
            self.status = TrainingStatus.ERROR
            self._place.suspicion = self._step = None
            self._replica.drop_mean()
            self._begin(self._place.position._replace(attempt=0))  # sums may hold a part of this step
            if not (isinstance(error, RunEnded) and error.status == "stopped"):
                self._moments.raised(error, self.version)
            raise
        finally:
            self.reached = max(self.reached, min(self.version, target))
            self._stopped = self._place.in_force.stopped and self.version <= target
        whole = self.version > before and closing and not self._stopped
        self.status = move(self.status, TrainingStatus.COMPLETED if whole else TrainingStatus.IDLE)
        return self.state

    def close(self) -> None:
        """Agree on the last version, if that has not been done."""
        if self._entered and not self._closings:
            self.run(self.reached, self._total, closing=True)

    def finish(self) -> None:
        """What `Sync.finish` says: first of all `close`, later the roll call."""
        if not self._finished:
            self.close()
        elif self._admitted:
            self._entered = False
            self._advance(self.reached, False)
        self._finished = True

    # ------------------------------------------------------------ between steps

    def _advance(self, target: int, closing: bool) -> None:
        """Steps until the target or a stop; when the tree is formed anew, from where this sphere stands."""
        while True:
            try:
                self._closing = False
                if not self._entered:
                    self._enter()
                if self.version > target:
                    return
                while self.version < target and not self._honours_a_stop():
                    self._take_step()
                self._closing = closing
                if closing:
                    self._close()
                return
            except GenerationEnded:
                self._entered = False
                self._keep_training_units()

    def _enter(self) -> None:
        """Answer the roll call, come to where the generation begins, and be part of the tree."""
        place, replica = self._place, self._replica
        self._digest = replica.digest()
        start = self._sync.begin(place.standing(self._digest, self._snapshot))
        place.hear(start)
        match start.how:
            case How.HERE if not start.keep and start.position == place.position:
                self._begin(start.position)
            case How.RECORD:
                self._follow(start)
            case How.FETCH | How.LOAD:
                self._take(self._sync.fetch(), start)
        if place.position != start.position:
            raise ReductionError(
                f"this sphere stands at {tuple(place.position)}, the generation begins at {tuple(start.position)} by "
                f"{start.how.value} [LW304]"
            )
        if start.how is not How.HERE:
            self._digest = replica.digest()
        place.sums = place.suspicion = None  # a flag must be seen twice among the same members
        place.in_force = self._sync.wanted(max(place.in_force.number, start.in_force))
        self._entered = True
        self._tail_s = time.perf_counter()
        if self._reported != self.version:
            self._reported = self.version
            check, number = replica.check(), place.in_force.number
            told = StepReport(self.version, check=check, digest=self._digest, in_force=number, how=start.how.value)
            self._sync.report(told)

    def _admit(self, total: int) -> None:
        if self._admitted:
            if not self._sync.alone:
                self._replica.write_down()  # a script may change weights between its calls
            return
        units, replica = self._units, self._replica
        fields = fingerprint_of(replica, self.config, units.data, units.eval_data)
        if not self._sync.alone:
            replica.snapshot()  # an optimizer whose state can't be sent is refused now, not when a sphere is lost
            fields["probe"] = replica.probe(units.data.batch(0, 0))
        replica.send_to(self._sync.reduce, early=not self._sync.alone)
        self.fingerprint = fields
        length = Length(total, units.data.steps_per_epoch, replica.layout.gradient_bytes)
        self._sync.admit(fields, self.config, length)
        self._sync.finish, self._sync.kept = self.finish, self._kept
        self._admitted = True

    def _honours_a_stop(self) -> bool:
        """Whether a stop is in force, after waiting out a pause."""
        place = self._place
        if place.in_force.paused and not place.in_force.stopped:
            self.status = move(self.status, TrainingStatus.PAUSED)
            try:
                self._sync.progress(place.position, "paused")
                place.in_force = self._sync.wait_while_paused(place.in_force)
                self._tail_s = time.perf_counter()
            finally:
                self.status = move(self.status, TrainingStatus.RUNNING)
        return place.in_force.stopped

    def _go_on_after_a_stop(self) -> None:
        """Alone the call is the order to go on; on a tree the run is over for the script."""
        if not isinstance(self._sync, Alone):
            raise RunEnded("stopped", f"by order, at version {self.version}")
        self._place.in_force = self._sync.wanted(self._sync.order(stopped=False, paused=False))

    def _begin(self, position: Position) -> None:
        self._place.begin(position)
        self._replica.begin()

    def _move(self, agreed: Agreed, **to: int) -> None:
        self._place.move(agreed, **to)
        self._replica.begin()

    def _keep_training_units(self) -> None:
        """What a generation hands on are whole micro-batches of a step; evaluations are computed anew."""
        training = 0 if self._closing else self._units.training
        self._replica.restore_buffers()
        outcomes = self._place.outcomes
        self._place.outcomes = {unit: outcome for unit, outcome in outcomes.items() if unit < training}

    # ------------------------------------------------------------ a step

    def _take_step(self) -> None:
        """One version: compute what was dealt, sum it, agree, and only then change anything."""
        self._moments.step_begins(self.version)
        trace = self._replica.trace = self._sync.trace
        if trace is not None:
            trace.step_begins(self.version, self._total)
        step = self._step = self._step or Step(trace)
        version, training, evaluation = self.version, self._units.training, self._units.evaluation(self.version)
        while self.version == version:
            self._compute(training, evaluation, step)
            sums = self._sync.reduced()
            if trace is not None:
                trace.lap("wait for the sums")
            self._act(self._agree(training + evaluation, sums, step), step)

    def _compute(self, training: int, evaluation: int, step: Step) -> None:
        """What was dealt to this sphere and is not yet done. Buckets leave in the backward of the last, but for a
        repetition: what it repeats may have left too early."""
        sync, replica, outcomes, position = self._sync, self._replica, self._place.outcomes, self._place.position
        units = sync.deal(position, training, evaluation)
        replica.send_anew()
        replica.refuse_frozen()
        left = [unit for unit in units if unit not in outcomes]
        own = [unit for unit in left if unit < training]
        last = own[-1] if own and position.attempt == 0 else None
        step.watch.mark()
        sync.progress(position, "computing", len(outcomes), len(units))
        for unit in left:
            if unit >= training:
                outcomes[unit] = replica.evaluate(self._units.evaluation_batch(unit - training))
                step.lap("eval", unit - training)
                sync.progress(position, "computing", len(outcomes), len(units))
                continue
            batch = self._units.batch(self.version, unit)
            step.lap("data", unit)
            self._moments.batch_begins(position, unit, batch)
            outcome = outcomes[unit] = replica.compute(self.version, unit, batch, last=unit == last)
            step.count(outcome)
            self._moments.batch_ends(position, unit, outcome)
            step.lap("compute", unit)
            sync.progress(position, "computing", len(outcomes), len(units))
        step.busy_s = time.perf_counter() - self._tail_s
        if training:
            replica.finish()
        sync.progress(position, "reducing", len(outcomes), len(units))
        self._refuse_what_changed()

    def _refuse_what_changed(self) -> None:
        """Own sums and the copy that they came from must be what was written: checked while the buckets travel."""
        if not self._replica.intact:
            self._sync.unsound("own sums are no longer what was added to them [LW304]", self._sync.rank)
        why = None if self._sync.alone else self._replica.why_not_as_written()
        if why:
            self._sync.unsound(why, self._sync.rank)

    def _agree(self, units: int, sums: list[Tensor], step: Step) -> Agreed:
        """The tail, summed over all and found sound; all own buckets are complete."""
        sync, place = self._sync, self._place
        place.sums = sums
        own = self._replica.tail(place.outcomes, units, sync.rank, sync.members)
        own.members["digest"][sync.rank] = int(self._digest[:15], 16) if self._digest else 0
        own.members["busy_us"][sync.rank] = round(step.busy_s * 1e6)
        tail = sync.tail(own, place.position)
        self._tail_s = time.perf_counter()
        step.waited(tail)
        agreed = Agreed(tail, sums, sync.paths)
        self._refuse_unsound(agreed)
        return agreed

    def _refuse_unsound(self, agreed: Agreed) -> None:
        """Sums that arrived otherwise than they were sent are not kept for a record to act on."""
        replica, sync = self._replica, self._sync
        arrived = replica.checksums(agreed.sums) if replica.exact and agreed.sums and not sync.alone else None
        unsound = soundness(agreed.tail, arrived, lambda rank: self._name(agreed, rank), self._own_rank(agreed))
        if unsound is not None:
            self._place.sums = None
            sync.unsound(unsound.reason, unsound.odd)

    def _name(self, agreed: Agreed, rank: int) -> str:
        return f"sphere {agreed.paths[rank]}" if agreed.missed else self._sync.name_of(rank)

    def _own_rank(self, agreed: Agreed) -> int | None:
        return None if agreed.missed else self._sync.rank

    def _act(self, agreed: Agreed, step: Step) -> None:
        """Do what a sound tail says: there is a new version, or the step is to be repeated."""
        place, tail = self._place, agreed.tail
        verdict = decide(
            tail,
            exponents=self._replica.exponents,
            headroom_bits=self.config.headroom_bits,
            attempt=place.position.attempt,
            suspicion=place.suspicion,
            training_units=self._units.training,
        )
        match verdict:
            case Update() as update:
                return self._commit(update, agreed, step)
            case Repeat(suspicion):
                place.suspicion = suspicion
            case Rescale(exponents):
                place.suspicion, self._replica.exponents = None, exponents
            case (NonFinite() | Hopeless()) as trouble:
                step.trouble = self._skipped_or_raised(trouble, agreed)
                return self._make_version(agreed, step)
        self._move(agreed, attempt=place.position.attempt + 1)

    def _commit(self, update: Update, agreed: Agreed, step: Step) -> None:
        """Everything that changes in a step, after all have agreed to it."""
        replica, sums = self._replica, agreed.sums
        if sums is None:
            raise ReductionError(f"version {self.version + 1} can't be made from a record without its sums [LW304]")
        schedule = self._schedule or warmup_cosine(self.config.warmup_steps, self._total)
        rate = schedule_rate(schedule, self.version + 1, self._place.in_force.learning_rate)
        step.loss, step.weight, step.cleared = update.loss, update.weight, update.cleared
        if update.weight:
            replica.take_mean(sums, update.weight, agreed.tail.fired.tolist())
            self._moments.gradient_stands(self._place.position, step, replica.statistics)
            replica.refuse_other_gradients()
            try:
                step.applied = replica.update(rate)
            except NonFiniteError as error:
                if self.config.nan_policy != "skip":
                    raise
                step.trouble, step.loss, step.weight = str(error), None, 0
                return self._make_version(agreed, step)
        replica.adopt_buffers(sums)
        if replica.exact:
            replica.exponents = update.exponents
        self._make_version(agreed, step)

    def _make_version(self, agreed: Agreed, step: Step) -> None:
        """The next version stands, with new weights or, skipped, with the old ones: number it, report it, tell it."""
        place, tail, training, sync = self._place, agreed.tail, self._units.training, self._sync
        eval_loss = self.evaluations.book(tail, training, self.version)
        epoch, attempts = self._units.data.epoch_of(self.version), place.position.attempt + 1
        order = place.order_after(self.version + 1, min(tail.members["seen"].tolist()))
        place.in_force, place.suspicion, self._closings = sync.wanted(order), None, 0
        self._move(agreed, version=self.version + 1, closing=0, attempt=0)
        self._digest = self._replica.digest() if self._digest_due() else None
        check = None if sync.alone else self._replica.write_down()
        step.lap("update")
        self._micro_batches += step.units
        self._busy_s += step.watch.of("data", "compute", "update", "eval")
        norm, rate, clip_ratio = step.applied or (None, None, None)
        self.state = TrainingState(self.version, epoch, step.loss, rate, norm)
        self._reported = self.version
        if sync.listens:
            suspects = ", ".join(self._name(agreed, owner) for owner in step.cleared)
            sync.report(
                StepReport(
                    self.version, loss=step.loss, learning_rate=rate, grad_norm=norm, weight=step.weight,
                    samples=int(tail.units["samples"][:training].sum()), attempts=attempts,
                    skipped=step.applied is None, in_force=order, check=self._replica.check() if sync.alone else check,
                    digest=self._digest, epoch=epoch, eval_loss=eval_loss, suspect=suspects or None,
                    suspects=() if agreed.missed else step.cleared, how="record" if agreed.missed else "tail",
                    trouble=step.trouble, clip_ratio=clip_ratio, slowest=None if agreed.missed else step.slowest,
                    own_units=step.units, own_samples=step.samples, own_weight=step.own_weight,
                    seconds=step.watch.total(),
                )
            )  # fmt: skip
        self._step = None
        if step.trace is not None:
            step.trace.step_ends()
        self._moments.logs = sync.first
        self._moments.version_stands(self.state, step, self.evaluations.loss)
        if not sync.alone and self._moments.heard:
            self._replica.write_down()  # who was told may have changed weights, on all spheres alike

    def _kept(self, path: Path) -> None:
        """The last version was written."""
        self._moments.written(path, self.version, self._digest or "")

    def _digest_due(self) -> bool:
        every = self.config.verify_interval
        last = self.version == self._target or self._place.in_force.stopped
        return last or bool(every and self.version % every == 0)

    def _skipped_or_raised(self, trouble: NonFinite | Hopeless, agreed: Agreed) -> str:
        """The sentence for a step that is skipped by policy; raises where the policy or the trouble is another."""
        names = [slot.name for slot in self._replica.layout.slots]
        skips = self.config.nan_policy == "skip"
        if isinstance(trouble, NonFinite):
            told = trouble.told(names, self.version, self._name(agreed, trouble.owner))
            if skips:
                return told
            raise NonFiniteError(told)
        told = trouble.told(names, self.version)
        if skips and trouble.stuck:  # beyond 1e27: as good as infinite
            return told
        raise ReductionError(told)

    def _close(self) -> None:
        """The last version is agreed, by a tail without a step. For a sphere that came after that tail it is already."""
        place, sync = self._place, self._sync
        if self._closings == place.position.closing:
            self._digest = self._replica.digest()
            self._begin(place.position)
            step, evaluation = Step(), self._units.closing
            self._compute(0, evaluation, step)
            self._agree_on_version(self._agree(evaluation, [], step))
        self._closings += 1
        if sync.trace is not None:
            sync.trace.write()
        loss, weight = self.evaluations.closing
        reason = "stopped" if place.in_force.stopped or self._cut_short else "completed"
        digest = self._digest or self._replica.digest()
        sync.closed(
            Closing(self.version, digest, reason, loss, weight, self._micro_batches, self._busy_s), self._replica.model
        )

    def _agree_on_version(self, agreed: Agreed) -> None:
        """What a sound closing tail says."""
        self.evaluations.close(agreed.tail, self.version)
        self._move(agreed, closing=self._place.position.closing + 1, attempt=0)

    # ------------------------------------------------------------ following the others

    def _follow(self, start: Start) -> None:
        """Decide from the record of the tail that this sphere missed what those did who had it, and do it."""
        place, record, units = self._place, start.record, self._units
        if record is None or record.start != place.position:
            raise ReductionError(f"the record that was to be followed does not begin at {tuple(place.position)} [LW304]")
        closing = record.end.closing > record.start.closing
        training, evaluation = (0, units.closing) if closing else (units.training, units.evaluation(self.version))
        tail = self._replica.empty_tail(training + evaluation, len(record.paths))
        tail.read(record.tail)
        agreed = Agreed(tail, place.sums, record.paths, missed=True)
        self._refuse_what_changed()
        self._refuse_unsound(agreed)
        if closing:
            self._agree_on_version(agreed)
        else:
            self._act(agreed, self._step or Step())

    def _snapshot(self) -> Snapshot:
        """All that the next step depends on."""
        place, s, replica = self._place, self.state, self._replica.snapshot()
        state = (s.step, s.epoch, s.loss, s.lr, s.grad_norm)
        kept = (state, self.evaluations.facts(), self._moments.facts())
        loop = {
            "digest": self._digest, "position": list(place.position), "in_force": place.in_force.number,
            "kept": apart(kept, "", {}),
        }  # fmt: skip
        return Snapshot(replica.tensors, {**replica.facts, **loop})

    def _take(self, snapshot: Snapshot, start: Start) -> None:
        """Stand where another sphere stood, with all that it had there."""
        if start.position.version < self.reached:
            raise Sick(
                f"the run is taken up again at version {start.position.version}, and this script is past version "
                f"{self.reached}: it must begin anew [LW304]"
            )
        if start.digest is not None and snapshot.digest() != start.digest:
            self._sync.unsound("the state that was to be taken is not the one that all had agreed on [LW304]")
        self._replica.take(snapshot)
        kept: Any = together(snapshot.facts["kept"], {})
        state, evaluations, epoch = kept
        self.state = TrainingState(*state)
        self.evaluations.take(evaluations)
        self._moments.take(epoch)
        self._place.in_force = self._sync.wanted(start.in_force)  # not ours: a replay begins with older orders
        self._place.record, self._step, self._reported, self._closings = None, None, -1, 0
        self._begin(start.position)
