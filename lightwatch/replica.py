"""One sphere's copy of the run: weights, moments, exponents, buffers, and the sums of the step in progress.

Laws
  1. Sums change by whole micro-batches; the copy itself changes in `update` and `adopt_buffers` alone, after all have
     agreed to it.
  2. A micro-batch's gradient is a function of (version, index): it starts from the version's buffers and its own seed,
     whatever was computed here before.
  3. Clipping comes once, after averaging. The mean gradient is rounded before it is clipped, so that one
     `clip_grad_norm_` serves both reductions and users; it costs a pass over memory in steps that do clip.

Memory: weights 4, sums 4 (the mean gradient takes their place), AdamW 8 bytes a parameter, and 4 for wire buffers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import TrainingConfig
from .data import Batch, key, seed_everything
from .departures import Departures
from .errors import ConfigError, DataError, NonFiniteError, StateError
from .exact import UNMEASURED, Accumulator, checksum, same_checksum, write_mean
from .flat import Buffers, FlatLayout, bits_of, digest_of, trainable_parameters
from .losses import AUTOCAST, LossFunction, cross_entropy, loss_of
from .optim import AdamW, Schedule, clip_factor, clip_gradients_, norm_of
from .snapshot import BUFFERS, HIDDEN, OPTIMIZER, PARAMETERS, Snapshot, apart, together
from .statistics import GradientStatistics, gradient_statistics
from .tail import Outcome, Tail
from .trace import Trace


class Applied(NamedTuple):
    """What an update did. norm: before clipping; clip_ratio: the factor that clipping put on it, 1 for none."""

    norm: float
    learning_rate: float
    clip_ratio: float


class Replica:
    """The model used, not copied: its parameters move into the flat layout, its optimizer stays the user's."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        optimizer: torch.optim.Optimizer | None,
        loss_fn: LossFunction | None,
    ) -> None:
        self.model = model
        self.config = config
        self.loss_fn = loss_fn or cross_entropy(config.label_smoothing)
        self._eval_loss_fn = loss_fn or cross_entropy(0.0)  # bits per byte are of the targets, not of a smoothed one
        self.layout = FlatLayout(model)
        self.exact = config.reduction == "exact"
        self._autocast = AUTOCAST[config.autocast]
        self.exponents: list[int] | None = [UNMEASURED] * len(self.layout.slots) if self.exact else None
        self._part = Accumulator(self.layout, exact=self.exact)
        self._departures = Departures(self.layout, self._leave)
        self._tail: Tail | None = None
        self._send: Callable[[Tensor], None] | None = None
        self.intact = True
        self.trace: Trace | None = None
        self._means = self._part.sums.view(torch.float32)
        self._gradients = [slot.shaped(self._means) for slot in self.layout.slots]
        self._standing: list[Tensor] = []
        self._means_told: list[Tensor | None] = []
        self._parameters = [slot.parameter for slot in self.layout.slots]
        self.optimizer = optimizer or AdamW(self._parameters, config.learning_rate, config.weight_decay)
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._buffers = Buffers(model)
        self._modules = list(model.modules())
        self._version_buffers = self._buffers.read()
        self._taken_buffers = torch.zeros_like(self._version_buffers)
        self._written: tuple[int, int] | None = None
        self._check = 0

    # ------------------------------------------------------------ a step

    def begin(self) -> None:
        """Empty sums for a new position; the buffers are the version's again, whatever was computed in between."""
        self._part.begin(self.exponents or ())
        if self._buffers.words:
            self._taken_buffers.zero_()
            self.restore_buffers()

    def send_to(self, send: Callable[[Tensor], None], *, early: bool) -> None:
        """Where buckets leave to, in index order. early: `compute` may be told to let them leave in its backward."""
        self._send = send
        self._part.on_added = self._departures.fired if early else None

    def send_anew(self) -> None:
        """No bucket of this position has left: those that had were given up with their generation."""
        self._departures.begin()
        self.intact = True

    def compute(self, version: int, index: int, batch: Batch, *, last: bool = False) -> Outcome:
        """Forward and backward of one training micro-batch; its gradient is in the sums when this returns.

        last: nothing is added to this position's sums afterwards, so each bucket leaves as soon as it is complete.
        """
        if last:
            self._departures.open()
        self.restore_buffers()
        if batch.weight == 0:
            self._take_buffers(index)
            return Outcome(0.0, 0, batch.samples)
        seed_everything(key(self.config.seed, version, index, "model"))
        if not all(module.training for module in self._modules):
            self.model.train()
        with self._part.micro_batch(batch.weight):
            began_s = time.perf_counter()
            loss = loss_of(self.model, batch, self.loss_fn, self.layout.device, self._autocast)
            if self.trace is not None:
                began_s = self.trace.span("forward", began_s)
            # Float sums are of the loss summed over targets; d(mean * w) is bitwise d(sum) for cross entropy.
            loss.backward(None if self.exact else torch.full_like(loss, batch.weight))  # type: ignore[no-untyped-call]
            if self.trace is not None:
                self.trace.span("backward", began_s)
        bad = self._part.settle() + 1
        self._take_buffers(index)
        value = float(loss.detach())
        if bad == 0 and not math.isfinite(value):
            bad = len(self._parameters) + 1
        return Outcome(value, batch.weight, batch.samples, bad)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Outcome:
        """The loss of one evaluation micro-batch: no gradient, no dropout, nothing of the training touched."""
        if batch.weight == 0:
            return Outcome(0.0, 0, batch.samples)
        self.restore_buffers()
        self.model.eval()
        try:
            loss = float(loss_of(self.model, batch, self._eval_loss_fn, self.layout.device, self._autocast))
        finally:
            self.model.train()
            self.restore_buffers()
        return Outcome(loss, batch.weight, batch.samples)

    def finish(self) -> None:
        """The own sums are complete: what has not yet left does; the model's buffers, if it has any, come last."""
        self._departures.finish()
        if self._buffers.words and self._send is not None:
            self._send(self._taken_buffers)

    def _leave(self, index: int) -> None:
        began_s = time.perf_counter()
        bucket = self._part.buckets[index]
        if self.exact and not same_checksum(int(checksum(bucket)), int(self._part.checks[index])):
            self.intact = False
        if self._send is not None:
            self._send(bucket)
        if self.trace is not None:
            self.trace.span(f"bucket {index} leaves", began_s)

    def tail(self, outcomes: Mapping[int, Outcome], units: int, rank: int, members: int) -> Tail:
        """What this member, number `rank` of `members`, says in the tail of a position with so many units.

        Of the weights it tells the check that `why_not_as_written` took. Good until the next call.
        """
        tail = self._tail  # made anew only when its form is another: of a tiny step that was a twentieth
        if tail is None or (tail.units["taken"].size, tail.members["seen"].size) != (units, members):
            tail = self._tail = self.empty_tail(units, members)
        tail.vector.fill(0)
        tail.bounds[:], tail.fired[:] = self._part.bounds, self._part.fired
        tail.checks[:] = self._part.checks.tolist()
        for unit, outcome in outcomes.items():
            tail.take(unit, rank, outcome)
        tail.members["weights"][rank] = self._check
        tail.members["late"][rank] = self._departures.late
        return tail

    def empty_tail(self, units: int, members: int) -> Tail:
        """A tail of the form that this model's have."""
        return Tail(len(self.layout.slots), len(self.layout.buckets), units, members)

    def checksums(self, buckets: Sequence[Tensor]) -> list[int]:
        """The checksum, modulo 2^32, of each gradient bucket."""
        return [int(checksum(bucket)) % 2**32 for bucket in buckets[: len(self.layout.buckets)]]

    def take_mean(self, sums: Sequence[Tensor], weight: int, fired: Sequence[int]) -> None:
        """Turn reduced sums into the mean gradient, in each parameter's `grad`. The own sums are gone with it.

        fired: per parameter, how many micro-batches gave it a gradient; those with none are left out, as torch does.
        """
        write_mean(self.layout, sums, self._means, self.exponents, weight)
        self._means_told = [g if count else None for g, count in zip(self._gradients, fired, strict=True)]
        for parameter, gradient in zip(self._parameters, self._means_told, strict=True):
            parameter.grad = gradient
        self._standing = [gradient for gradient in self._means_told if gradient is not None]

    def update(self, rate: Callable[[float], float]) -> Applied:
        """Clip the mean gradient and let the optimizer take its step.

        Raises NonFiniteError before anything has changed if the mean is not finite.
        """
        limit = self.config.max_grad_norm
        norm = clip_gradients_(self._standing, limit) if limit else norm_of(self._standing, 2)
        if not math.isfinite(norm):  # float sums can overflow where no summand did
            self.drop_mean()
            raise NonFiniteError(f"the norm of the mean gradient is {norm}; no weight was changed [LW302]")
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate(base)
        self.optimizer.step()
        self.drop_mean()
        ratio = clip_factor(norm, limit) if limit else 1.0
        return Applied(norm, float(self.optimizer.param_groups[0]["lr"]), ratio)

    def drop_mean(self) -> None:
        """No parameter has a gradient any more."""
        self._means_told = []
        for parameter in self._parameters:
            parameter.grad = None

    def adopt_buffers(self, sums: Sequence[Tensor]) -> None:
        """The version's buffers are now those that micro-batch 0 left."""
        if self._buffers.words:
            self._version_buffers = sums[-1].clone()
            self.restore_buffers()

    def statistics(self) -> GradientStatistics:
        """Of the mean gradient, while it stands and before it is clipped. Raises StateError afterwards."""
        if not self._means_told:
            raise StateError(
                "the mean gradient is gone: ask for its statistics before the gradient_sync callback returns [LW807]"
            )
        return gradient_statistics(self._parameters, self.config.max_grad_norm)

    # ------------------------------------------------------------ the whole copy

    def digest(self) -> str:
        return digest_of(self.model)

    def check(self) -> int:
        """The wrapping int64 sum over the bits of weights and buffers: cheap enough for every tail."""
        total = self.layout.check() + int(self._version_buffers.sum())
        return (total + 2**63) % 2**64 - 2**63

    def write_down(self) -> int:
        """Remember the copy as an update has just left it, for `why_not_as_written`; the weights' check."""
        self._written = self.check(), bits_of(*self._moments())
        return self._written[0]

    def why_not_as_written(self) -> str | None:
        """The sentence if weights, buffers or the optimizer's state are not what was written down; None if they are.

        Only this sphere's own memory can be at fault: it needs nobody else to convict it.
        """
        self._check = self.check()
        if self._written is None or self._written == (self._check, bits_of(*self._moments())):
            return None
        what = "weights" if self._written[0] != self._check else "optimizer's moments"
        return f"the {what} are not what the last update wrote: this sphere's own memory did not keep them [LW304]"

    def _moments(self) -> Sequence[Tensor]:
        if isinstance(self.optimizer, AdamW):
            return self.optimizer.flat
        tensors: dict[str, Tensor] = {}
        apart(self.optimizer.state_dict(), OPTIMIZER, tensors)
        return list(tensors.values())

    def snapshot(self) -> Snapshot:
        """All of this copy but the sums. Its tensors are the copy's own memory, as far as they lie there in one piece.

        Raises ConfigError for an optimizer that keeps what no other sphere could be sent.
        """
        tensors = {PARAMETERS + name: p.detach().contiguous() for name, p in self.model.named_parameters()}
        kept = self.model.state_dict(keep_vars=True)
        for name, buffer in self._buffers.named(self._version_buffers).items():
            tensors[(BUFFERS if name in kept else HIDDEN) + name] = buffer
        optimizer = apart(self.optimizer.state_dict(), OPTIMIZER, tensors)
        kind = type(self.optimizer).__name__
        return Snapshot(tensors, {"exponents": self.exponents, "optimizer": optimizer, "optimizer_is": kind})

    def take(self, snapshot: Snapshot) -> None:
        """Become the copy that `snapshot` was made of: the next step's bits are that one's.

        Raises DataError, and changes nothing, if it is of another model.
        """
        self.refuse_another(snapshot)
        self.optimizer.load_state_dict(together(snapshot.facts["optimizer"], snapshot.tensors))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(snapshot.tensors[PARAMETERS + name])
        kinds = (BUFFERS, HIDDEN)
        named = {n.partition(".")[2]: t for n, t in snapshot.tensors.items() if n.startswith(kinds)}
        self._version_buffers = self._buffers.words_of(named)
        self.restore_buffers()
        self.exponents = snapshot.facts["exponents"] and list(snapshot.facts["exponents"])
        self.write_down()

    def refuse_another(self, snapshot: Snapshot) -> None:
        """Raise DataError if it is the state of another model, or was made by another optimizer."""
        own, theirs = (_shapes(each) for each in (self.snapshot(), snapshot))
        for name in sorted(own.keys() | theirs.keys()):
            if own.get(name) != theirs.get(name):
                raise DataError(
                    f"the state's {name} is {theirs.get(name, 'not there')}, this model's is "
                    f"{own.get(name, 'not there')}: it is the state of another model [LW210]"
                )
        own_kind, kind = type(self.optimizer).__name__, snapshot.facts.get("optimizer_is")
        if kind not in (None, own_kind):
            raise DataError(f"the state is of a training by {kind}, this one's optimizer is {own_kind} [LW210]")

    def restore_buffers(self) -> None:
        """The model's buffers become the version's: every forward may change them."""
        if self._buffers.words:
            self._buffers.write(self._version_buffers)

    def take_buffers(self) -> None:
        """The version's buffers are what the model holds now: after it was loaded, or its state shared."""
        self._modules = list(self.model.modules())
        self._version_buffers = self._buffers.read()

    def probe(self, batch: Batch) -> str:
        """sha256 of the quantised gradient of one micro-batch: what no list of names and versions can promise.

        Leaves the copy as it was.
        """
        self.begin()
        self.compute(0, 0, batch)
        sha = hashlib.sha256(self._part.sums.cpu().numpy().data)
        self.begin()
        return sha.hexdigest()

    def refuse_frozen(self) -> None:
        """As `refuse_changes`, for what a callback may do between steps; cheap enough for each."""
        if not all(parameter.requires_grad for parameter in self._parameters):
            self.refuse_changes()

    def refuse_other_gradients(self) -> None:
        """Raise StateError if a callback has put another gradient, or none, in the place of the mean."""
        for slot, standing in zip(self.layout.slots, self._means_told, strict=True):
            if slot.parameter.grad is not standing:
                raise StateError(
                    f"a callback has replaced the gradient of {slot.name}: the update would not be of the mean that "
                    "all spheres hold; change its numbers in place, the same on every sphere, or let it be [LW809]"
                )

    def refuse_changes(self) -> None:
        """Raise ConfigError if the set of trainable parameters, or their storage, is no longer what was laid out."""
        now = dict(trainable_parameters(self.model))
        laid_out = {slot.name: slot for slot in self.layout.slots}
        changed = sorted(set(now) ^ set(laid_out))
        moved = sorted(n for n in set(now) & set(laid_out) if now[n].data_ptr() != self._home(laid_out[n].offset))
        if changed or moved:
            raise ConfigError(
                f"the model's trainable parameters changed after the Trainer was made: {', '.join(changed + moved)}; "
                "freeze, assign or move parameters before, or make a new Trainer [LW204]"
            )

    def _home(self, offset: int) -> int:
        return self.layout.weights.data_ptr() + 4 * offset

    def _take_buffers(self, index: int) -> None:
        if index == 0 and self._buffers.words:
            self._taken_buffers.copy_(self._buffers.read())


def schedule_rate(schedule: Schedule, update: int, ordered: float | None) -> Callable[[float], float]:
    """Base rate -> rate of this update; an ordered learning rate takes the base's place."""
    factor = schedule(update)
    if not (math.isfinite(factor) and factor >= 0):
        raise ConfigError(
            f"the scheduler gave {factor!r} for update {update}; it must give a finite factor >= 0 [LW206]"
        )
    return lambda base: (base if ordered is None else ordered) * factor


def _shapes(snapshot: Snapshot) -> dict[str, str]:
    """What must be equal for one model to take another's state: by name, in words."""
    tensors = snapshot.tensors.items()
    return {n: f"{t.dtype} {tuple(t.shape)}" for n, t in tensors if not n.startswith(OPTIMIZER)}
