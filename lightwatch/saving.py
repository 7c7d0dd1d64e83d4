"""When a training of one process saves, what its checkpoints say of it, and how it goes on from one."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .config import TrainingConfig
from .errors import told
from .fingerprint import NEED_NOT_BE_EQUAL
from .manifest import Manifest
from .moments import Moments
from .saver import Home, Saved, Saver
from .stepper import Stepper
from .units import Units

log = logging.getLogger("lightwatch")


class Saving:
    """Saves at every `save_interval`, and when it is told to. All calls come from the training thread.

    A checkpoint's moment is a version's boundary: all callbacks of the step have returned, the next has not begun.
    """

    def __init__(self, stepper: Stepper, units: Units, home: Home, moments: Moments) -> None:
        self._stepper = stepper
        self._units = units
        self._home = home
        self._moments = moments
        self._data = ""
        self._last = -1
        """The version that was saved last, by number or by stopping."""
        self._left_out = 0
        """Saves in a row that a slow disk has cost."""
        self.run = home.run

    @property
    def run(self) -> str:
        """Whose checkpoints these are: a training that goes on from one is of the same run."""
        return self._run

    @run.setter
    def run(self, run: str) -> None:
        config = self._stepper.config
        self._run = run
        self._saver = Saver(self._home.folder / config.checkpoint_dir, run, config.max_checkpoints)

    def version_stands(self) -> None:
        """Tell of what was written since, and save if this version is due. Waits for nothing but the copy."""
        self.tell()
        every = self._stepper.config.save_interval
        if every and self._stepper.version % every == 0:
            self._save()

    def stopped(self) -> None:
        """Training ends before its time: this version is what it goes on from."""
        if self._stepper.config.save_interval:
            self._saver.flush()
            if self._last != self._stepper.version or self._saver.failed:
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

    def _save(self) -> None:
        version = self._stepper.version
        if self._saver.busy:
            self._left_out += 1
            tell = log.warning if self._left_out == 1 else log.debug
            tell("version %d is not saved: the save before it is still being written [LW608]", version)
            return
        self._left_out = 0
        try:
            self._saver.begin(self._stepper.snapshot(), self._about())
        except Exception as error:  # an optimizer's state that no file can hold, memory that is out: training goes on
            log.warning("version %d is not saved: %s", version, told(error))
            return
        self._last = version

    def _about(self) -> dict[str, Any]:
        self._data = self._data or self._units.data.fingerprint
        return about(self._stepper, self._data) | {
            "tree": self._home.tree,
            "config": {"training": asdict(self._stepper.config), **self._home.config},
            "spheres": self._home.spheres(),
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


def differences(manifest: Manifest, config: TrainingConfig, data: str) -> list[str]:
    """Where a training of this config, on these data, is not the one that was saved: each with both values. What
    decides no bit may differ. data: the fingerprint."""
    kept, names = manifest.config.get("training", {}), [n for n in config.names() if n not in NEED_NOT_BE_EQUAL]
    now = {name: getattr(config, name) for name in names}
    found = [f"{name} was {kept.get(name)!r} and is {now[name]!r}" for name in names if kept.get(name) != now[name]]
    if manifest.data != data:
        found.append(f"the data's fingerprint was {manifest.data[:16]} and is {data[:16]}")
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
