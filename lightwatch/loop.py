"""The loop: one version after another, the same on one process and on a tree of any shape.

It knows two things besides the steps themselves (`stepper`): which of the script's calls is being answered, and which
generation of the tree this sphere is part of. Either may change without the other. A generation that ends is followed
by a roll call, from where this sphere stands; a sphere that came late replays the script, and each call that the others
have behind them returns at once.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

from .checkpoints import chosen
from .errors import ConfigError, ReductionError, RunEnded, StateError, coded, told
from .fingerprint import fingerprint_of
from .manifest import Manifest
from .metrics import TrainingState
from .moments import Moments
from .parts import read_state
from .replica import Replica
from .saving import Saving
from .status import TrainingStatus, move
from .stepper import Stepper
from .sync import Alone, GenerationEnded, How, Length, Position, Sick, Start, Sync, Wanted
from .units import Units

log = logging.getLogger("lightwatch")


class Loop:
    """Answers the script's calls. Only `run` and `finish` take the training further."""

    def __init__(self, replica: Replica, units: Units, sync: Sync, stepper: Stepper, moments: Moments) -> None:
        self.saving = Saving(stepper, units, sync, moments)
        self.status = TrainingStatus.IDLE
        self.fingerprint: dict[str, str] = {}
        self.stepper = stepper
        self.reached = 0
        """The version to which the script's calls have come: one that came late finds others ahead of its script."""
        self._thread = threading.current_thread()
        self._replica = replica
        self._units = units
        self._sync = sync
        self._moments = moments
        self._entered = self._admitted = self._cut_short = self._stopped = self._finished = False

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self.stepper.version

    def run(self, target: int, total: int, *, closing: bool) -> TrainingState:
        """From where the script stands to version `target`; nothing is done if the others are past it already.

        total: the version at which the schedule ends. closing: agree on the last version, with its evaluation. The
        status says ERROR if anything is raised, and the last version is whole.
        """
        before, stepper = self.version, self.stepper
        if target < self.reached:
            ago = self.reached - target
            raise ConfigError(f"a number of epochs or steps must be >= 0, this one ends {ago} steps ago [LW002]")
        if self.status in (TrainingStatus.RUNNING, TrainingStatus.PAUSED, TrainingStatus.INITIALIZING):
            raise StateError(
                "this trainer is training already: train(), train_steps() and close() can't be called from one of its "
                "callbacks or from another thread; let the callback return first [LW807]"
            )
        self._thread = threading.current_thread()
        self._cut_short = self.status is TrainingStatus.ERROR and closing and target == before
        self.status = move(self.status, TrainingStatus.INITIALIZING)
        try:
            stepper.target, stepper.total = target, total
            self._replica.refuse_changes()
            self._replica.take_buffers()
            if self._stopped and target > before:
                self._go_on_after_a_stop()
            self._admit(total)
            self.status = move(self.status, TrainingStatus.RUNNING)
            self._advance(target, closing)
            if closing and self._sync.alone:
                self.saving.flush()
        except BaseException as error:
            self.status = TrainingStatus.ERROR
            stepper.drop()
            if not (isinstance(error, RunEnded) and error.status == "stopped"):
                self._moments.raised(error, self.version)
            raise
        finally:
            self.reached = max(self.reached, min(self.version, target))
            self._stopped = stepper.place.in_force.stopped and self.version <= target
        whole = self.version > before and closing and not self._stopped
        self.status = move(self.status, TrainingStatus.COMPLETED if whole else TrainingStatus.IDLE)
        return stepper.state

    def close(self) -> None:
        """Agree on the last version, if that has not been done."""
        if self._entered and not self.stepper.closings:
            self.run(self.reached, self.stepper.total, closing=True)
        if self._sync.alone:
            self.saving.flush()

    # ------------------------------------------------------------ checkpoints of one process

    def checkpoint(self, name: str | None) -> Path:
        """Save the version that stands. On the disk when this returns, but for a call from within the training."""
        saving = self._own()
        running = self.status in (TrainingStatus.RUNNING, TrainingStatus.PAUSED)
        if running and threading.current_thread() is not self._thread:
            raise StateError(
                "a checkpoint can't be taken from another thread while a step is made: ask for it in a callback [LW807]"
            )
        path = saving.now(name)
        if not running:
            for saved in saving.flush():
                if saved.error is not None and saved.path == path:
                    raise StateError(coded(f"{path} can't be written: {told(saved.error)}", "LW608")) from saved.error
        return path

    def restore(self, path: Path) -> Manifest:
        """Stand where the saved training stood; what is known of it. Raises DataError, and then nothing has changed."""
        saving = self._own()
        if self.status in (TrainingStatus.RUNNING, TrainingStatus.PAUSED, TrainingStatus.INITIALIZING):
            raise StateError("a training that is running can't go back: let the call that trains return [LW807]")
        newest = chosen(path)
        assert newest.path is not None and newest.manifest is not None and isinstance(self._sync, Alone)
        for sentence in newest.skipped:
            log.warning("passed over: %s", sentence)
        manifest, snapshot = newest.manifest, read_state(newest.path, newest.manifest)
        self._replica.refuse_another(snapshot)
        saving.flush()
        position = Position(*snapshot.facts["position"])._replace(lineage=max(manifest.lineage, self._sync.lineage))
        if self._entered:
            position = position._replace(lineage=max(position.lineage, self.stepper.place.position.lineage + 1))
        self._sync.take(Wanted(**manifest.orders))
        self.stepper.take(snapshot, Start(position, How.LOAD, in_force=manifest.orders["number"]))
        self.reached, self.stepper.digest = position.version, manifest.digest
        self._entered = self._stopped = self._cut_short = False
        self.status = move(move(self.status, TrainingStatus.RESTORING), TrainingStatus.IDLE)
        saving.run = manifest.run
        return manifest

    def _own(self) -> Saving:
        if not self._sync.alone:
            raise StateError(
                "on a tree control says when to save, and from where to go on: `lightwatch checkpoint|restore`, or a "
                "ControlClient [LW512]"
            )
        return self.saving

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """What `Sync.finish` says: first of all `close`, later the roll call."""
        if not self._finished:
            self.close()
        elif self._admitted:
            self._entered = False
            self._advance(self.reached, closing=False)
        self._finished = True

    # ------------------------------------------------------------ in and out of generations

    def _advance(self, target: int, closing: bool) -> None:
        """Steps until the target or a stop; when the tree is formed anew, from where this sphere stands."""
        while True:
            try:
                if not self._entered:
                    self._enter()
                if self.version > target:
                    return
                while self.version < target and not self._honours_a_stop():
                    self.stepper.take_step()
                    self.saving.version_stands()
                if self.stepper.place.in_force.stopped:
                    self.saving.stopped()
                if closing:
                    self._close()
                return
            except GenerationEnded:
                self._entered = False
                self.stepper.keep_training_units()

    def _enter(self) -> None:
        """Answer the roll call, come to where the generation begins, and be part of the tree."""
        stepper = self.stepper
        stepper.digest = self._replica.digest()
        start = self._sync.begin(stepper.place.standing(stepper.digest, stepper.snapshot))
        stepper.place.hear(start)
        match start.how:
            case How.HERE if not start.keep:
                stepper.begin(stepper.place.position)
            case How.RECORD:
                stepper.follow(start.record)
            case How.FETCH | How.LOAD:
                self._refuse_what_is_behind(start)
                stepper.take(self._sync.fetch(), start)
        if stepper.place.position != start.position:
            raise ReductionError(
                f"this sphere stands at {tuple(stepper.place.position)}, but the generation begins at "
                f"{tuple(start.position)}, to be reached by {start.how.value} [LW304]"
            )
        if start.how is not How.HERE:
            stepper.digest = self._replica.digest()
        stepper.stand(start)
        self.saving.begins(start.save)
        self._entered = True

    def _refuse_what_is_behind(self, start: Start) -> None:
        """A script can't be taken back: what its calls have behind them would never be done again."""
        if (start.position.version, start.position.closing) < (self.reached, self.stepper.closings_at(self.reached)):
            raise Sick(
                f"the run is taken up again at version {start.position.version}, which this process' script has behind "
                "it: the process must begin anew [LW304]"
            )

    def _admit(self, total: int) -> None:
        units, replica = self._units, self._replica
        if self._admitted:
            if not self._sync.alone:
                replica.write_down()  # a script may change weights between its calls
            return
        fields = fingerprint_of(replica, replica.config, units.data, units.eval_data)
        if not self._sync.alone:
            replica.snapshot()  # an optimizer whose state can't be sent is refused now, not when a sphere is lost
            fields["probe"] = replica.probe(units.data.batch(0, 0))
        replica.send_to(self._sync.reduce, early=not self._sync.alone)
        self.fingerprint, self._sync.device = fields, replica.layout.device
        length = Length(total, units.data.steps_per_epoch, replica.layout.gradient_bytes)
        self._sync.admit(fields, replica.config, length)
        self._sync.finish, self._sync.kept = self.finish, self._kept
        self._admitted = True

    def _honours_a_stop(self) -> bool:
        """Whether a stop is in force, after waiting out a pause."""
        place = self.stepper.place
        if place.in_force.paused and not place.in_force.stopped:
            self.status = move(self.status, TrainingStatus.PAUSED)
            try:
                self._sync.progress(place.position, "paused")
                while place.in_force.paused and not place.in_force.stopped:
                    place.in_force = self._sync.next_order(place.in_force)
                    self.saving.order_taken()
                self.stepper.awaken()
            finally:
                self.status = move(self.status, TrainingStatus.RUNNING)
        return place.in_force.stopped

    def _go_on_after_a_stop(self) -> None:
        """Alone the call is the order to go on; on a tree the run is over for the script."""
        if not isinstance(self._sync, Alone):
            raise RunEnded("stopped", f"by order, at version {self.version}")
        self.stepper.place.in_force = self._sync.wanted(self._sync.order(stopped=False, paused=False))

    def _close(self) -> None:
        closing = self.stepper.close()
        if self._sync.trace is not None:
            self._sync.trace.write()
        self._sync.closed(replace(closing, reason="stopped") if self._cut_short else closing, self._replica.model)

    def _kept(self, path: Path) -> None:
        """The last version was written."""
        self._moments.written(path, self.version, self.stepper.digest or "")
