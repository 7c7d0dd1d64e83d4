"""What a user holds: a model, its data and a config, and the calls that train it. The steps are taken in `loop`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import sync as seam
from .arithmetic import settle_arithmetic
from .callbacks import CallbackHandle, CallbackPolicy, CallbackType
from .config import TrainingConfig
from .data import Batch, Batches, aligned, weight_of
from .device import place
from .errors import ConfigError, StateError
from .flat import digest_of
from .loop import Loop
from .losses import LossFunction
from .metrics import TrainingState
from .moments import Moments
from .optim import Schedule
from .replica import Replica
from .saving import differences
from .status import TrainingStatus
from .stepper import Stepper
from .sync import Alone, Sync
from .trace import STEPS, Trace
from .units import Units

log = logging.getLogger("lightwatch")


class Trainer:
    """Trains `model` on `train_data`; alone, or on a tree when a worker runs the script. Uses both, copies neither.

    What is computed depends on config, data and seed alone: not on how many spheres there are, nor on the tree.

    model: float32 parameters on one device, brought to the config's; seed torch before building it. train_data:
    map-style dataset of (inputs, targets). optimizer: over the model's parameters, else AdamW. scheduler: update number
    (from 1) -> factor on the learning rate, else warm-up and cosine. loss_fn: (outputs, targets) -> mean loss, else
    cross entropy.

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
                f"scheduler must be a function from update number to a factor, got {type(scheduler).__name__} [LW206]"
            )
        self.model = model
        self.data = self._batches(train_data, collate_fn)
        self.eval_data = None if eval_data is None else self._batches(eval_data, collate_fn)
        self.sync: Sync = sync or seam.current or Alone()
        self._units = Units(self.config, self.data, self.eval_data)
        place(model, self.config.device, self.sync.local_rank)
        self._replica = Replica(model, self.config, optimizer, loss_fn)
        self._moments = Moments(self.data.steps_per_epoch, self.config.log_interval)
        self._stepper = Stepper(self._replica, self._units, self.sync, scheduler, self._moments)
        self._loop = Loop(self._replica, self._units, self.sync, self._stepper, self._moments)

    def train(self, num_epochs: int | None = None) -> TrainingState:
        """Train until `max_steps`, or for `num_epochs` if they end first; one epoch if neither is given.

        Blocks. Ends with an evaluation of the last version. Raises NonFiniteError; RunEnded if control ended the run.
        """
        most = self.config.max_steps
        target = most
        if num_epochs is not None or most < 0:
            target = self._loop.reached + (1 if num_epochs is None else num_epochs) * self.data.steps_per_epoch
            target = min(target, most) if most > 0 else target
        return self._loop.run(target, target, closing=True)

    def train_steps(self, count: int) -> TrainingState:
        """Make `count` more versions, fewer if `max_steps` comes first. Blocks."""
        most = self.config.max_steps
        target = min(self._loop.reached + count, most) if most > 0 else self._loop.reached + count
        return self._loop.run(target, most if most > 0 else self.data.steps_per_epoch, closing=False)

    def train_step(self, batch: tuple[Any, Any]) -> TrainingState:
        """One update from a batch of one's own, (inputs, targets). For one process only."""
        if not self.sync.alone:
            raise StateError(
                "train_step(batch) would give each sphere another batch; on a tree call train_steps(n) [LW806]"
            )
        inputs, targets = map(aligned, batch)
        samples = len(targets) if hasattr(targets, "__len__") else 1
        self._units.given = Batch(inputs, targets, weight_of(targets, samples), samples)
        try:
            return self.train_steps(1)
        finally:
            self._units.given = None

    @property
    def on_step_end(self) -> Callable[[TrainingState], None] | None:
        """Called with the state after every version; set it to a function of your own."""
        return self._moments.on_step_end

    @on_step_end.setter
    def on_step_end(self, fn: Callable[[TrainingState], None] | None) -> None:
        self._moments.on_step_end = fn

    @property
    def on_epoch_end(self) -> Callable[[TrainingState], None] | None:
        """Likewise, after the last version of an epoch."""
        return self._moments.on_epoch_end

    @on_epoch_end.setter
    def on_epoch_end(self, fn: Callable[[TrainingState], None] | None) -> None:
        self._moments.on_epoch_end = fn

    def register_callback(
        self, type: CallbackType | str, fn: Callable[[Any], object], on_error: CallbackPolicy = "raise"
    ) -> CallbackHandle:
        """Have fn(payload) called at each moment of this type from now on, in order of registration.

        The types, and what each is called with, are in `lightwatch.callbacks`. on_error: what becomes of an exception
        that it raises: it leaves `train` ("raise"), is logged ("log"), or logged and never called again ("disable").
        The version that stands is whole in each case.
        """
        return self._moments.callbacks.register(type, fn, on_error)

    def unregister_callback(self, handle: CallbackHandle) -> None:
        """Never call it again; it may do this itself while it is being called."""
        self._moments.callbacks.unregister(handle)

    def profile(self, folder: str | Path, steps: int = STEPS) -> None:
        """Write what happens in a few of the next steps to `folder`/<path of the sphere>.json, alone `folder`/0.json.

        Open it in ui.perfetto.dev or chrome://tracing. Shown are steps of a warm training: from the sixth on, earlier
        only if it ends before; called later, the next ones. A file that can't be written is a warning in the log.
        """
        self.sync.trace = Trace(Path(folder), self.sync.path, steps)

    def checkpoint(self, name: str | None = None) -> Path:
        """Save this version, in `checkpoint_dir`/step-<version> or under a name; the checkpoint's folder.

        Between calls that train it is whole on the disk when this returns. From a callback only the copy is waited for:
        training goes on while it is written, and CHECKPOINT tells when it is whole. A checkpoint with a name is never
        removed by `max_checkpoints`. For one process. Raises ConfigError (the name), StateError (it can't be written).
        """
        return self._loop.checkpoint(name)

    def restore(self, path: str | Path) -> TrainingState:
        """Stand where the training stood that was saved in the folder `path`, or in the newest whole one inside it.

        The next steps have the bits of a training that was never interrupted, if config and data are the same; what is
        not is a warning in the log. For one process. Raises DataError, and then nothing has changed.
        """
        manifest = self._loop.restore(Path(path))
        for difference in differences(manifest, self.config, self.data.fingerprint):
            log.warning("the training that was saved is another one: %s", difference)
        return self.state()

    def close(self) -> None:
        """End a training that was driven by `train_steps`: agree on the last version. Does nothing after `train`."""
        self._loop.close()

    def state(self) -> TrainingState:
        """Where training stands now, a frozen copy."""
        return self._stepper.state

    @property
    def version(self) -> int:
        """Updates made so far."""
        return self._loop.version

    def digest(self) -> str:
        """sha256 over parameters, then buffers: the name of this version in every run of the same config."""
        return digest_of(self.model)

    @property
    def status(self) -> TrainingStatus:
        """What the trainer is doing."""
        return self._loop.status

    @property
    def eval_loss(self) -> float | None:
        """The loss of the newest evaluation; None before the first."""
        return self._stepper.evaluations.loss

    @property
    def best_eval(self) -> tuple[float, int] | None:
        """The lowest loss of an evaluation and the version it was of; None before the first."""
        return self._stepper.evaluations.best

    @property
    def fingerprint(self) -> dict[str, str]:
        """What must be equal on all spheres, as it was shown when training began; empty before."""
        return self._loop.fingerprint

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
            raise ConfigError(f"a learning rate must be finite and >= 0, got {learning_rate} [LW002]")
        self._order(learning_rate=float(learning_rate))

    def _order(self, **changes: object) -> None:
        if not isinstance(self.sync, Alone):
            raise StateError(
                "on a tree orders go to control: `lightwatch pause|resume|stop`, or a ControlClient [LW512]"
            )
        self.sync.order(**changes)

    def _batches(self, data: Any, collate_fn: Callable[[list[Any]], Any] | None) -> Batches:
        c = self.config
        return Batches(data, seed=c.seed, micro_batches=c.micro_batches, batch_size=c.batch_size, collate_fn=collate_fn)
