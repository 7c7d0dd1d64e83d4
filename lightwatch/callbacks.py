"""Callbacks: the eight moments of a training at which code of the user's is called. Standard library only.

    type           when it is called                                                   with
    EPOCH_START    before the first step of an epoch                                   EpochStart
    EPOCH_END      after the last step of an epoch                                     EpochEnd
    BATCH_START    before the forward of a micro-batch                                 BatchStart
    BATCH_END      after the backward of a micro-batch                                 BatchEnd
    GRADIENT_SYNC  when the mean gradient of a step is there, before it is clipped     GradientSync
    WEIGHT_UPDATE  after an update, when the new version stands                        TrainingState
    CHECKPOINT     after a checkpoint was written, when it is whole on the disk        CheckpointWritten
    ERROR          when the training ends by an exception, before that leaves `train`  ErrorRaised

On a tree each sphere calls its own, with the same values but for batches and seconds: those are the sphere's own.
CHECKPOINT is called on the sphere that wrote the file; path is that of a checkpoint's folder, and at the end of a run,
under `lightwatch run`, that of the model. It comes between two steps, some time after the version that was saved. An
epoch that a training breaks off has no EPOCH_END. A callback is for watching: what it changes of weights, batches or
gradients in place changes what is learned, and must be the same on all spheres: the next tail finds unequal weights.

Laws
  1. Callbacks of a type are called in the order of their registration, one after the other, in the training thread.
  2. Registering takes effect from the next firing on, unregistering at once; both are legal in a callback.
  3. What a callback raises leaves `fire` as it is under the policy "raise", ends in the log under "log", and under
     "disable" it ends in the log and the callback is never called again. KeyboardInterrupt and SystemExit always leave.
  4. An error is not replaced by that of a callback it was told to: an ERROR callback is "log" if it is "raise"; only
     law 3's two go before it.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import ConfigError, StateError
from .law import shown

log = logging.getLogger("lightwatch.callbacks")

CallbackPolicy = Literal["raise", "log", "disable"]
"""What becomes of an exception that a callback raises."""


class CallbackType(StrEnum):
    """When a callback is called; the table at the head of this file says it. Its text will do too: "batch_end"."""

    EPOCH_START = "epoch_start"
    EPOCH_END = "epoch_end"
    BATCH_START = "batch_start"
    BATCH_END = "batch_end"
    GRADIENT_SYNC = "gradient_sync"
    WEIGHT_UPDATE = "weight_update"
    CHECKPOINT = "checkpoint"
    ERROR = "error"


@dataclass(frozen=True)
class EpochStart:
    """An epoch begins.

    epoch: from 0. step: updates made so far; the epoch's first will be step + 1. steps: how many it has.
    """

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is over.

    epoch: from 0. step: updates made so far. loss: mean over the epoch's targets, in nats per target; None if it had
    none. eval_loss: that of the last evaluation so far; None before the first.
    """

    epoch: int
    step: int
    loss: float | None
    eval_loss: float | None = None


@dataclass(frozen=True)
class BatchStart:
    """A micro-batch is about to be computed.

    step: the update it is for, from 1. index: its place in the step. batch: inputs, targets, weight and samples, to
    be read only. attempt: from 0; a step that is repeated computes its micro-batches again.
    """

    step: int
    index: int
    batch: Any
    attempt: int = 0


@dataclass(frozen=True)
class BatchEnd:
    """A micro-batch was computed; its gradient is in the sums, no weight has changed.

    step, index, attempt: as in BatchStart. loss: its mean loss, in nats per target; it may be NaN. weight: targets (or
    samples) that it is the mean of. samples: how many it holds.
    """

    step: int
    index: int
    loss: float
    weight: int
    samples: int
    attempt: int = 0


@dataclass(frozen=True)
class GradientSync:
    """The mean gradient of a step is there, the same on every sphere; it stands in each parameter's `grad`.

    step: the update that is being made, from 1. loss: the weighted mean over all its micro-batches. weight: targets
    (or samples) averaged over. wait_s, reduce_s: how long this sphere waited for others, and for their sums.
    statistics: () -> GradientStatistics, before clipping. Costs two passes over the gradient, but only if called; to be
    called before the callback returns, as the gradient is clipped and given up after it.
    """

    step: int
    loss: float | None
    weight: int
    wait_s: float
    reduce_s: float
    statistics: Callable[[], Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint is whole on the disk, at `path`. version: updates in it. digest: sha256 of its weights."""

    path: Path
    version: int
    digest: str


@dataclass(frozen=True)
class ErrorRaised:
    """The training ends by `error`, which leaves `train` next.

    step: updates made so far; the weights are those of this version, whole.
    """

    error: BaseException
    step: int


@dataclass(frozen=True, eq=False)
class CallbackHandle:
    """One registration: what `unregister` takes. The same function registered twice has two."""

    type: CallbackType
    fn: Callable[[Any], object]
    on_error: CallbackPolicy
    home: Callbacks = field(repr=False)


class Callbacks:
    """Who is to be called when. May be changed from any thread; a firing is the training thread's."""

    def __init__(self) -> None:
        self._handles: dict[CallbackType, list[CallbackHandle]] = {each: [] for each in CallbackType}

    def register(
        self, type: CallbackType | str, fn: Callable[[Any], object], on_error: CallbackPolicy = "raise"
    ) -> CallbackHandle:
        """Have fn(payload) called at every moment of this type, from the next one on.

        Raises ConfigError for an unknown type or policy, and for what can't be called.
        """
        if not isinstance(type, str) or type not in self._handles:
            raise ConfigError(f"a callback's type must be {_either(CallbackType)}, got {shown(type)} [LW002]")
        if not callable(fn) or inspect.iscoroutinefunction(fn):
            what = "an async function, which nobody would await" if callable(fn) else shown(fn)
            raise ConfigError(f"a callback must be a function of one argument, the payload; got {what} [LW002]")
        if on_error not in get_args(CallbackPolicy):
            policies = _either(get_args(CallbackPolicy))
            raise ConfigError(f"a callback's on_error must be {policies}, got {shown(on_error)} [LW002]")
        handle = CallbackHandle(CallbackType(type), fn, on_error, self)
        self._handles[handle.type].append(handle)
        return handle

    def unregister(self, handle: CallbackHandle) -> None:
        """Never call it again. Does nothing if that holds already: it was unregistered, or disabled.

        Raises StateError for a handle of somebody else's, ConfigError for what is none.
        """
        if not isinstance(handle, CallbackHandle):
            raise ConfigError(f"unregistering takes the handle that registering gave, got {shown(handle)} [LW002]")
        if handle.home is not self:
            raise StateError(
                f"the callback {_name(handle)} is registered elsewhere, not here: "
                "unregister it with the trainer that gave the handle [LW807]"
            )
        if handle in self._handles[handle.type]:
            self._handles[handle.type].remove(handle)

    def wanted(self, type: CallbackType) -> bool:
        """Whether anybody is to be called: asked before a payload is made, so that an unused type costs nothing."""
        return bool(self._handles[type])

    def fire(self, type: CallbackType, payload: object) -> None:
        """Call those of a type, in order; the laws at the head of this file say what becomes of an exception."""
        handles = self._handles[type]
        for handle in tuple(handles):
            if handle not in handles:  # unregistered during this firing
                continue
            try:
                handle.fn(payload)
            except Exception as error:
                if handle.on_error == "raise" and type != CallbackType.ERROR:
                    raise
                self._survive(handle, error)

    def _survive(self, handle: CallbackHandle, error: Exception) -> None:
        """Tell the log, with the callback's own line; the whole traceback only in a log of every detail."""
        goes_on = "it goes on being called"
        if handle.on_error == "disable":
            self.unregister(handle)
            goes_on = "it is not called again"
        own = error.__traceback__.tb_next if error.__traceback__ else None
        place = f" (in {os.path.basename(own.tb_frame.f_code.co_filename)}, line {own.tb_lineno})" if own else ""
        whole = error if log.isEnabledFor(logging.DEBUG) else None
        name, kind = _name(handle), error.__class__.__name__
        sentence = "callback %s for %s raised %s: %s%s; %s [LW801]"
        log.warning(sentence, name, handle.type, kind, error, place, goes_on, exc_info=whole)


def _name(handle: CallbackHandle) -> str:
    return str(getattr(handle.fn, "__qualname__", handle.fn.__class__.__qualname__))


def _either(choices: Any) -> str:
    *others, last = (f'"{each}"' for each in choices)
    return f"{', '.join(others)} or {last}"
