"""Clipping, AdamW and the learning rate.

The norm is summed in fixed chunks of each parameter, in the order given, in float64: the same on every sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .flat import chunks

Schedule = Callable[[int], float]
"""Update number (from 1) -> factor on the base learning rate."""


@torch.no_grad()
def grad_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The L2 norm over all gradients, float64 over fixed chunks; parameters without a gradient don't count."""
    total = 0.0
    for parameter in parameters:
        if parameter.grad is not None:
            for part in chunks(_flat(parameter.grad)):
                norm = float(torch.linalg.vector_norm(part))
                if not math.isfinite(norm):  # the squares left float32, not yet the norm
                    norm = float(torch.linalg.vector_norm(part, dtype=torch.float64))
                total += norm**2
    return math.sqrt(total)


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients in place so that their norm is at most `max_norm`; returns the norm before.

    Like torch.nn.utils.clip_grad_norm_ (the factor is max_norm / (norm + 1e-6), only ever below 1), but its result
    doesn't depend on how the gradients are grouped into tensors of a device or kernel.
    """
    parameters = list(parameters)
    norm = grad_norm(parameters)
    factor = max_norm / (norm + 1e-6)
    if factor < 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
    return norm


class AdamW:
    """torch.optim.AdamW(fused=True), the same kernel and bits, without what its first step imports.

    torch's own optimizers load the whole of dynamo at their first use: 5 s of CPU in every process, more than all the
    rest of a start.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, eps: float = 1e-8) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.weight_decay = weight_decay
        self.betas = (0.9, 0.999)
        self.eps = eps
        self._state: dict[nn.Parameter, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient; the others' moments and counts stay."""
        group = self.param_groups[0]
        moving = [p for p in group["params"] if p.grad is not None]
        if not moving:
            return
        for p in moving:
            if p not in self._state:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                self._state[p] = (torch.zeros_like(p), torch.zeros_like(p), step)
        first, second, steps = (list(each) for each in zip(*(self._state[p] for p in moving), strict=True))
        torch._foreach_add_(steps, 1.0)
        beta1, beta2 = self.betas
        torch._fused_adamw_(
            moving, [p.grad for p in moving], first, second, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
            weight_decay=self.weight_decay, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip


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


def _flat(gradient: Tensor) -> Tensor:
    if torch.ops.aten.is_non_overlapping_and_dense(gradient):
        return gradient.as_strided((gradient.numel(),), (1,))
    return gradient.reshape(-1)
