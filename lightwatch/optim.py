"""Clipping, AdamW and the learning rate.

The norm is summed in fixed chunks of each parameter, in the order given, in float64: the same on every sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .flat import ALIGNMENT, CHUNK_ELEMENTS, chunks

Schedule = Callable[[int], float]
"""Update number (from 1) -> factor on the base learning rate."""

Parameters = Iterable[nn.Parameter] | Tensor
"""Those whose gradients are meant, or a single one."""


@torch.no_grad()
def grad_norm(parameters: Parameters, order: float = 2) -> float:
    """The norm over all gradients, of order 1, 2 or inf; parameters without a gradient don't count.

    Float64 over fixed chunks. NaN if any element is, 0.0 where there are no gradients. Waits for the gradients'
    device. Raises ConfigError for another order.
    """
    if order not in (1, 2, math.inf):
        raise ConfigError(
            f"grad_norm takes the order 1, 2 or math.inf, got {order!r}; clipping is by the order 2 [LW002]"
        )
    return norm_of(gradients_of(parameters), order)


@torch.no_grad()
def clip_grad_norm_(parameters: Parameters, max_norm: float) -> float:
    """Scale all gradients in place so that their L2 norm is at most `max_norm`; returns the norm before.

    Like torch.nn.utils.clip_grad_norm_ (the factor is max_norm / (norm + 1e-6), only ever below 1), but its result
    doesn't depend on how the gradients are grouped into tensors of a device or kernel, and a norm that is NaN scales
    nothing. Waits for the gradients' device. Raises ConfigError for a limit below 0.
    """
    if not max_norm >= 0:
        raise ConfigError(f"clip_grad_norm_ takes a max_norm >= 0, got {max_norm!r} [LW002]")
    return clip_gradients_(gradients_of(parameters), max_norm)


def clip_gradients_(gradients: list[Tensor], max_norm: float) -> float:
    """What `clip_grad_norm_` does, for gradients that no gradient is taken of."""
    norm = norm_of(gradients, 2)
    factor = clip_factor(norm, max_norm)
    if factor < 1.0 and gradients:
        torch._foreach_mul_(gradients, factor)
    return norm


@torch.no_grad()
def clip_grad_value_(parameters: Parameters, value: float) -> None:
    """Bring every element of every gradient into [-value, value], in place; a NaN stays one.

    Raises ConfigError for a limit below 0.
    """
    if not value >= 0:
        raise ConfigError(f"clip_grad_value_ takes a value >= 0, got {value!r} [LW002]")
    for gradient in gradients_of(parameters):
        gradient.clamp_(-value, value)


def norm_of(gradients: list[Tensor], order: float) -> float:
    """What `grad_norm` says, of these gradients."""
    parts = pieces(gradients)
    if order == 1:
        return sum(numbers([torch.linalg.vector_norm(part, 1, dtype=torch.float64) for part in parts]), 0.0)
    norms = numbers([torch.linalg.vector_norm(part, order) for part in parts])
    if order == math.inf:
        return greatest(norms)
    total = 0.0
    for part, norm in zip(parts, norms, strict=True):
        if not math.isfinite(norm):  # the squares left float32, not yet the norm
            norm = float(torch.linalg.vector_norm(part, dtype=torch.float64))
        total += norm * norm
    return math.sqrt(total)


def clip_factor(norm: float, max_norm: float) -> float:
    """What clipping multiplies gradients of this norm by: 1.0 if they stay as they are."""
    factor = max_norm / (norm + 1e-6)
    return factor if factor < 1.0 else 1.0


def gradients_of(parameters: Parameters) -> list[Tensor]:
    """The gradients that are there, in the order of the parameters."""
    if isinstance(parameters, Tensor):
        parameters = [parameters]  # type: ignore[list-item]
    return [gradient for parameter in parameters if (gradient := parameter.grad) is not None]


def pieces(gradients: Iterable[Tensor]) -> list[Tensor]:
    """All elements as the fixed chunks that sums are taken over; 1-D, but for a small gradient, which stays itself."""
    every: list[Tensor] = []
    for gradient in gradients:
        count = gradient.numel()
        if 0 < count <= CHUNK_ELEMENTS and gradient.is_contiguous():
            every.append(gradient)  # no view: of a tiny model's step these would be a third
        elif count:
            every.extend(chunks(_flat(gradient)))
    return every


def numbers(values: list[Tensor]) -> list[float]:
    """One number each; brought over at once from a device, where each alone would be a wait."""
    if not values or values[0].is_cpu:
        return [value.item() for value in values]
    first = values[0].device
    together: list[float] = torch.stack([value.to(first) for value in values]).tolist()
    return together


def greatest(values: list[float]) -> float:
    """NaN if any value is, 0.0 of none."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


class AdamW:
    """torch.optim.AdamW(fused=True), the same kernel and bits, without what its first step imports.

    torch's own optimizers load the whole of dynamo at their first use: 5 s of CPU in every process, more than all the
    rest of a start. What the kernel is given is put together only when other parameters than last time have gradients.

    Its state lies in three arrays, `flat`, so that a check over all of it is three sums.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, eps: float = 1e-8) -> None:
        self.weight_decay = weight_decay
        self.betas = (0.9, 0.999)
        self.eps = eps
        self._parameters = list(parameters)
        self.param_groups: list[dict[str, Any]] = [{"params": self._parameters, "lr": lr}]
        device = self._parameters[0].device
        size = sum(_padded(p.numel()) for p in self._parameters)
        first, second = torch.zeros(size, device=device), torch.zeros(size, device=device)
        self._moments = [(one, two) for one, two in zip(self._cut(first), self._cut(second), strict=True)]
        self._counts = torch.zeros(len(self._parameters), device=device)
        self.flat = (first, second, self._counts)
        self._moves = [False] * len(self._parameters)
        self._put_together()

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient; the others' moments and counts stay."""
        gradients = [p.grad for p in self._parameters]
        moves = [gradient is not None for gradient in gradients]
        if moves != self._moves:
            self._moves = moves
            self._put_together()
        if not self._moving:
            return
        self._counts.add_(self._added)
        beta1, beta2 = self.betas
        torch._fused_adamw_(
            self._moving, [g for g in gradients if g is not None], self._first, self._second, [], self._steps,
            lr=self.param_groups[0]["lr"], beta1=beta1, beta2=beta2, weight_decay=self.weight_decay, eps=self.eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the moments of every parameter that has moved, by its number; not copied."""
        moved = [place for place, count in enumerate(self._counts.tolist()) if count]
        first = {place: self._moments[place][0] for place in moved}
        second = {place: self._moments[place][1] for place in moved}
        return {"counts": self._counts, "first": first, "second": second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what another one's `state_dict` gave, into the own memory."""
        for tensor in self.flat:
            tensor.zero_()
        self._counts.copy_(state["counts"])
        for place, (first, second) in enumerate(self._moments):
            if place in state["first"]:
                first.copy_(state["first"][place])
                second.copy_(state["second"][place])

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """A stretch for each parameter, shaped and laid out like it; each begins where the weights' do, at a multiple
        of 64, for the kernel's bits depend on where a tensor is cut."""
        cut, offset = [], 0
        for p in self._parameters:
            cut.append(flat[offset : offset + p.numel()].as_strided(p.shape, torch.empty_like(p).stride()))
            offset += _padded(p.numel())
        return cut

    def _put_together(self) -> None:
        """What the kernel is given for the parameters that move."""
        places = [place for place, moves in enumerate(self._moves) if moves]
        self._moving: list[Tensor] = [self._parameters[place] for place in places]
        self._first = [self._moments[place][0] for place in places]
        self._second = [self._moments[place][1] for place in places]
        self._steps = [self._counts[place] for place in places]
        self._added = torch.tensor(self._moves, dtype=torch.float32, device=self._counts.device)


def warmup_cosine(warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up, then cosine: update k uses k/W up to W, then (1 + cos(pi * (k-W) / (T-W+1))) / 2 up to T.

    total_steps: T; updates past it stay at the last value. W = 0 and W >= T are legal. No update has rate 0: the zero
    of the cosine would fall on update T + 1.
    """

    def factor(update: int) -> float:
        if update <= warmup_steps:
            return update / warmup_steps
        if total_steps <= warmup_steps:
            return 1.0
        done = min(update, total_steps) - warmup_steps
        return 0.5 * (1.0 + math.cos(math.pi * done / (total_steps - warmup_steps + 1)))

    return factor


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _flat(gradient: Tensor) -> Tensor:
    if torch.ops.aten.is_non_overlapping_and_dense(gradient):
        return gradient.as_strided((gradient.numel(),), (1,))
    return gradient.reshape(-1)
