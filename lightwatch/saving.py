"""When a training saves, what its checkpoints say of it, and how it goes on from one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .config import TrainingConfig
from .errors import told
from .fingerprint import NEED_NOT_BE_EQUAL
from .manifest import Manifest
from .moments import Moments
from .saver import Saved, Saver
from .stepper import Stepper
from .sync import Sync, Wanted
from .units import Units

log = logging.getLogger("lightwatch")

WAIT_S = 0.05
STOP_S = 10.0
"""How long a stop waits for a save that is still in flight, before it leaves its own out."""


class Saving:
    """Saves at every `save_interval`, at a stop, and by order. All calls come from the training thread.

    A checkpoint's moment is a version's boundary: all callbacks of the step have returned, the next has not begun. On a
    tree all spheres decide the same: what is due follows from the version and the orders in force, and whether a save
    is still in flight somewhere from the tail.
    """

    def __init__(self, stepper: Stepper, units: Units, sync: Sync, moments: Moments) -> None:
        self._stepper = stepper
        self._units = units
        self._sync = sync
        self._moments = moments
        self._data = ""
        self._last = -1
        """The version that was saved last, by number or by stopping."""
        self._left_out = 0
        """Saves in a row that a slow disk has cost."""
        self._heard = Wanted()
        """The orders in force when it was looked last."""
        self._owed: str | None = None
        """The name under which the next version that can be saved is to be, empty for its own; None: no one waits."""
        stepper.is_saving = lambda: self._saver.busy
        self.run = sync.home.run

    @property
    def run(self) -> str:
        """Whose checkpoints these are: a training that goes on from one is of the same run."""
        return self._run

    @run.setter
    def run(self, run: str) -> None:
        config = self._stepper.config
        self._run = run
        self._saver = Saver(self._sync.home.folder / config.checkpoint_dir, run, config.max_checkpoints)

    def begins(self, owed: str | None) -> None:
        """A generation begins: what is owed from before is what all of it were told, and nothing else."""
        self._heard, self._owed = self._stepper.place.in_force, owed

    def version_stands(self) -> None:
        """Tell of what was written since, and save if this version is due. Waits for nothing but the copy."""
        self.tell()
        self._hear()
        every = self._stepper.config.save_interval
        if self._owed is None and not (every and self._stepper.version % every == 0):
            return
        # What the tail said: on a tree another may just have come to its end, and all must decide the same.
        if self._saver.busy if self._sync.alone else self._stepper.saves_in_flight:
            self._left_out += 1
            tell = log.warning if self._left_out == 1 else log.debug
            sentence = "version %d is not saved: the save before it is still being written [LW608]"
            tell(sentence, self._stepper.version)
            return
        self._save()

    def order_taken(self) -> None:
        """While paused: save at once what was ordered, for no version comes."""
        self._hear()
        if self._owed is not None and self._has_waited(None):
            self._save()

    def stopped(self) -> None:
        """Training ends before its time: this version is what it goes on from."""
        due = self._owed is not None
        if self._sync.alone and self._stepper.config.save_interval:
            self._saver.flush()
            due = due or self._last != self._stepper.version or bool(self._saver.failed)
        if due and self._has_waited(STOP_S):
            self._save()

    def now(self, name: str | None) -> Path:
        """Save this version, after the one in flight; where it will lie. Raises ConfigError, and what a copy raises."""
        self.tell()
        return self._saver.begin(self._stepper.snapshot(), self._about(), name)

    def flush(self) -> list[Saved]:
        """Wait until all is on the disk; what came to its end since it was last told."""
        self._saver.flush()
        return self.tell()

    def tell(self) -> list[Saved]:
        news = self._saver.news()
        for saved in news:
            if saved.manifest is not None:
                self._moments.written(saved.path, saved.manifest.version, saved.manifest.digest)
        return news

    def _hear(self) -> None:
        """What came in force since it was looked last: a checkpoint that was ordered, a stop."""
        now, before = self._stepper.place.in_force, self._heard
        self._heard = now
        if now.saves > before.saves:
            self._owed = now.save_as
        elif now.stopped and not before.stopped and self._stepper.config.save_interval:
            self._owed = "" if self._owed is None else self._owed

    def _has_waited(self, most_s: float | None) -> bool:
        """Wait until nothing is in flight here; False: something is for longer. Raises GenerationEnded."""
        began_s = time.monotonic()
        while not self._saver.wait(WAIT_S):
            self._sync.progress(self._stepper.place.position, "paused")
            if most_s is not None and time.monotonic() - began_s > most_s:
                log.warning("version %d is not saved: the disk is too slow [LW608]", self._stepper.version)
                return False
        return True

    def _save(self) -> None:
        position, name = self._stepper.place.position, self._owed
        self._left_out, self._owed, self._last = 0, None, position.version
        writers = self._sync.writers(position, self._heard.saves)
        if writers is None:
            return
        try:
            self._saver.begin(self._stepper.snapshot(), self._about(), name, writers)
        except Exception as error:  # an optimizer's state that no file can hold, memory that is out: training goes on
            log.warning("version %d is not saved: %s", position.version, told(error))
            self._last = -1
            writers.failed(told(error))
            writers.over()

    def _about(self) -> dict[str, Any]:
        self._data = self._data or self._units.data.fingerprint
        home = self._sync.home
        return about(self._stepper, self._data) | {
            "tree": home.tree,
            "config": {"training": asdict(self._stepper.config), **home.config},
            "spheres": home.spheres(),
        }


def about(stepper: Stepper, data: str) -> dict[str, Any]:
    """What a manifest says of a training that stands where this one does. data: the fingerprint of its data."""
    place, state, evaluations = stepper.place, stepper.state, stepper.evaluations
    best_loss, best_version = evaluations.best or (None, None)
    metrics = {
        "epoch": state.epoch, "loss": state.loss, "learning_rate": state.lr, "grad_norm": state.grad_norm,
        "eval_loss": evaluations.loss, "best_eval_loss": best_loss, "best_eval_version": best_version,
    }  # fmt: skip
    return {
        "version": place.position.version,
        "lineage": place.position.lineage,
        "seed": stepper.config.seed,
        "data": data,
        "metrics": {name: _finite(value) for name, value in metrics.items()},
        "orders": asdict(place.in_force),
    }


def differences(manifest: Manifest, config: TrainingConfig, data: str, but: Sequence[str] = ()) -> list[str]:
    """Where a training of this config, on these data, is not the one that was saved: each with both values. What
    decides no bit may differ. data: the fingerprint. but: fields that may differ too."""
    may = (*NEED_NOT_BE_EQUAL, *but)
    kept, now = manifest.config.get("training", {}), asdict(config)
    names = [name for name in config.names() if name not in may]
    found = [f"{name} was {kept.get(name)!r} and is {now[name]!r}" for name in names if kept.get(name) != now[name]]
    if manifest.data != data:
        found.append(f"the data's fingerprint was {manifest.data[:16]} and is {data[:16]}")
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
