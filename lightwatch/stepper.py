"""Versions, one after another: what is computed, summed, agreed and then changed, for one step at a time.

A step, as data flows
  1. `data.batch(version, index)` gives each micro-batch dealt to this sphere; forward and backward add its gradient,
     as integers, to this sphere's own sums.
  2. The sums are reduced bucket by bucket in one fixed order, up and down the tree; during the last own micro-batch
     already, each bucket as soon as it is complete.
  3. The tail, entered only when all own buckets are complete, tells everybody the same: each micro-batch counted once,
     checksums, losses, flags, the newest order that all have seen.
  4. One verdict for all. If it is to take the step: mean, clip, optimizer, version + 1. Until then nothing has changed.
  5. The version is reported, without waiting.

A sphere that misses a tail has all sums of its step: with the record of that tail it does 4 and 5 all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .errors import NonFiniteError, ReductionError
from .evaluations import Evaluations
from .metrics import Closing, StepReport, TrainingState
from .moments import Moments
from .optim import Schedule, warmup_cosine
from .place import Agreed, Place
from .replica import Replica, schedule_rate
from .snapshot import Snapshot, apart, together
from .step import Step
from .sync import Position, Start, Sync, Transition
from .tail import Hopeless, NonFinite, Repeat, Rescale, Update, decide, soundness
from .units import Units


class Stepper:
    """What a training is made of, and what takes it from one version to the next.

    target, total: of the script's call; a version's digest is due at the one, the schedule ends at the other. digest:
    of the version that stands, where it was taken. closings: those closing tails at this version that the script met.
    is_saving: asked before each tail. saves_in_flight: whether the last tail said so of anybody.
    """

    def __init__(
        self,
        replica: Replica,
        units: Units,
        sync: Sync,
        schedule: Schedule | None,
        moments: Moments,
    ) -> None:
        self.state = TrainingState()
        self.evaluations = Evaluations()
        self.place = Place()
        self.digest: str | None = None
        self.target = self.total = 0
        self.closings = 0
        self.is_saving: Callable[[], bool] = lambda: False
        self.saves_in_flight = False
        self.config = replica.config
        self._replica = replica
        self._units = units
        self._sync = sync
        self._schedule = schedule
        self._moments = moments
        self._reported = -1
        self._step: Step | None = None
        """The one being taken; it outlives the generation that it was begun in."""
        self._computing = 0
        """How many training micro-batches there are in what was computed last."""
        self._micro_batches = 0
        self._busy_s = 0.0
        self._tail_s = 0.0

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self.place.position.version

    def closings_at(self, version: int) -> int:
        """Closing tails at `version` that the script has met."""
        return self.closings if self.version == version else 0

    # ------------------------------------------------------------ between steps

    def stand(self, start: Start) -> None:
        """A generation has begun: the sums of the one before it are gone, what it was told holds, and nothing that was
        flagged is remembered, for a flag must be seen twice among the same members."""
        place = self.place
        place.sums = place.suspicion = None
        place.in_force = self._sync.wanted(max(place.in_force.number, start.in_force))
        self.awaken()
        if self._reported != self.version:
            self._reported = self.version
            check, number = self._replica.check(), place.in_force.number
            told = StepReport(self.version, check=check, digest=self.digest, in_force=number, how=start.how.value,
                              lineage=place.position.lineage)  # fmt: skip
            self._sync.report(told)

    def awaken(self) -> None:
        """From now on this sphere is busy."""
        self._tail_s = time.perf_counter()

    def keep_training_units(self) -> None:
        """What a generation hands on are whole micro-batches of a step; evaluations are computed anew."""
        self._replica.restore_buffers()
        outcomes = self.place.outcomes
        self.place.outcomes = {unit: outcome for unit, outcome in outcomes.items() if unit < self._computing}

    def drop(self) -> None:
        """Back to the version that stands, with nothing done: the sums may hold a part of a micro-batch."""
        self.place.suspicion = self._step = None
        self._replica.drop_mean()
        self.begin(self.place.position._replace(attempt=0))

    def begin(self, position: Position) -> None:
        self.place.begin(position)
        self._replica.begin()

    def _move(self, agreed: Agreed, position: Position) -> None:
        self.place.move(agreed, position)
        self._replica.begin()

    # ------------------------------------------------------------ a step

    def take_step(self) -> None:
        """One version: compute what was dealt, sum it, agree, and only then change anything."""
        self._moments.step_begins(self.version)
        trace = self._replica.trace = self._sync.trace
        if trace is not None:
            trace.step_begins(self.version, self.total)
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
        self._computing = training
        sync, replica, outcomes, position = self._sync, self._replica, self.place.outcomes, self.place.position
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
        sync, place = self._sync, self.place
        place.sums = sums
        own = self._replica.tail(place.outcomes, units, sync.rank, sync.members)
        own.members["digest"][sync.rank] = int(self.digest[:15], 16) if self.digest else 0
        own.members["busy_us"][sync.rank] = round(step.busy_s * 1e6)
        own.members["saving"][sync.rank] = self.is_saving()
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
            self.place.sums = None
            sync.unsound(unsound.reason, unsound.odd)

    def _name(self, agreed: Agreed, rank: int) -> str:
        return f"sphere {agreed.paths[rank]}" if agreed.missed else self._sync.name_of(rank)

    def _own_rank(self, agreed: Agreed) -> int | None:
        return None if agreed.missed else self._sync.rank

    def _act(self, agreed: Agreed, step: Step) -> None:
        """Do what a sound tail says: there is a new version, or the step is to be repeated."""
        place, tail = self.place, agreed.tail
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
        self._move(agreed, place.position._replace(attempt=place.position.attempt + 1))

    def _commit(self, update: Update, agreed: Agreed, step: Step) -> None:
        """Everything that changes in a step, after all have agreed to it."""
        replica, sums = self._replica, agreed.sums
        if sums is None:
            raise ReductionError(f"version {self.version + 1} can't be made from a record without its sums [LW304]")
        schedule = self._schedule or warmup_cosine(self.config.warmup_steps, self.total)
        rate = schedule_rate(schedule, self.version + 1, self.place.in_force.learning_rate)
        step.loss, step.weight, step.cleared = update.loss, update.weight, update.cleared
        if update.weight:
            replica.take_mean(sums, update.weight, agreed.tail.fired.tolist())
            self._moments.gradient_stands(self.place.position, step, replica.statistics)
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
        place, tail, training, sync = self.place, agreed.tail, self._units.training, self._sync
        eval_loss = self.evaluations.book(tail, training, self.version)
        epoch, attempts = self._units.data.epoch_of(self.version), place.position.attempt + 1
        order = place.order_after(self.version + 1, min(tail.members["seen"].tolist()))
        place.in_force, place.suspicion = sync.wanted(order), None
        self.saves_in_flight = bool(tail.members["saving"].any())
        self._micro_batches += step.units
        self.closings = 0
        self._move(agreed, Position(place.position.lineage, self.version + 1))
        self.digest = self._replica.digest() if self._digest_due() else None
        check = None if sync.alone else self._replica.write_down()
        step.lap("update")
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
                    digest=self.digest, epoch=epoch, eval_loss=eval_loss, suspect=suspects or None,
                    suspects=() if agreed.missed else step.cleared, how="record" if agreed.missed else "tail",
                    trouble=step.trouble, clip_ratio=clip_ratio, slowest=None if agreed.missed else step.slowest,
                    own_units=step.units, own_samples=step.samples, own_weight=step.own_weight,
                    seconds=step.watch.total(), lineage=place.position.lineage,
                )
            )  # fmt: skip
        self._step = None
        if step.trace is not None:
            step.trace.step_ends()
        self._moments.logs = sync.first
        self._moments.version_stands(self.state, step, self.evaluations.loss)
        if not sync.alone and self._moments.heard:
            self._replica.write_down()  # who was told may have changed weights, on all spheres alike

    def _digest_due(self) -> bool:
        every = self.config.verify_interval
        last = self.version == self.target or self.place.in_force.stopped
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

    def close(self) -> Closing:
        """The last version is agreed, by a tail without a step; for one that came after that tail it is already."""
        if self.closings == self.place.position.closing:
            self.digest = self._replica.digest()
            self.begin(self.place.position)
            step, evaluation = Step(), self._units.closing
            self._compute(0, evaluation, step)
            self._agree_on_version(self._agree(evaluation, [], step))
        self.closings += 1
        loss, weight = self.evaluations.closing
        self.digest = self.digest or self._replica.digest()
        reason = "stopped" if self.place.in_force.stopped else "completed"
        return Closing(self.version, self.digest, reason, loss, weight, self._micro_batches, self._busy_s)

    def _agree_on_version(self, agreed: Agreed) -> None:
        """What a sound closing tail says."""
        self.evaluations.close(agreed.tail, self.version)
        lineage, version, closing, _ = self.place.position
        self._move(agreed, Position(lineage, version, closing + 1))

    # ------------------------------------------------------------ following the others

    def follow(self, record: Transition | None) -> None:
        """Decide from the record of the tail that this sphere missed what those did who had it, and do it."""
        place, units = self.place, self._units
        if record is None or record.start != place.position:
            raise ReductionError(f"the record to be followed does not begin at {tuple(place.position)} [LW304]")
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

    def snapshot(self) -> Snapshot:
        """All that the next step depends on."""
        place, s, replica = self.place, self.state, self._replica.snapshot()
        state = (s.step, s.epoch, s.loss, s.lr, s.grad_norm)
        kept = (state, self.evaluations.facts(), self._moments.facts())
        loop = {
            "digest": self.digest, "position": list(place.position), "in_force": place.in_force.number,
            "kept": apart(kept, "", {}),
        }  # fmt: skip
        return Snapshot(replica.tensors, {**replica.facts, **loop})

    def take(self, snapshot: Snapshot, start: Start) -> None:
        """Stand where another sphere stood, with all that it had there."""
        if start.digest is not None and snapshot.digest() != start.digest:
            self._sync.unsound("the state that was to be taken is not the one that all had agreed on [LW304]")
        self._replica.take(snapshot)
        kept: Any = together(snapshot.facts["kept"], {})
        state, evaluations, epoch = kept
        self.state = TrainingState(*state)
        self.evaluations.take(evaluations)
        self._moments.take(epoch)
        self.place.in_force = self._sync.wanted(start.in_force)  # not ours: a replay begins with older orders
        self.closings = self.closings_at(start.position.version)
        self.place.record, self._step, self._reported = None, None, -1
        self.begin(start.position)
