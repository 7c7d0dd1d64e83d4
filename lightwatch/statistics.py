"""What the gradients of a step look like, in six numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .optim import Parameters, clip_factor, gradients_of, greatest, norm_of, numbers, pieces


@dataclass(frozen=True)
class GradientStatistics:
    """Over all elements of all gradients; NaN where one of them is, 0.0 where there are none.

    norm: L2. largest, least: of the elements. variance: mean squared distance from the mean, divided by their number.
    clip_ratio: what clipping multiplies them by; 1.0 if it leaves them as they are.
    """

    norm: float
    largest: float
    least: float
    mean: float
    variance: float
    clip_ratio: float


@torch.no_grad()
def gradient_statistics(parameters: Parameters, max_norm: float | None) -> GradientStatistics:
    """The statistics of gradients that are not clipped yet; they stay as they are.

    Sums are float64 over fixed chunks. Costs some six times what `grad_norm` does. Waits for the gradients' device.

    max_norm: as in TrainingConfig, 0 or None for no clipping.
    """
    gradients = gradients_of(parameters)
    parts = pieces(gradients)
    if not parts:
        return GradientStatistics(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    norm = norm_of(gradients, 2)
    ends = [torch.aminmax(part) for part in parts]
    wide = torch.empty(max(part.numel() for part in parts), dtype=torch.float64, device=parts[0].device)
    sums = [_sums(part, wide[: part.numel()]) for part in parts]
    mean, variance = _together(
        [part.numel() for part in parts], numbers([total for total, _ in sums]), numbers([square for _, square in sums])
    )
    return GradientStatistics(
        norm=norm,
        largest=greatest(numbers([end.max for end in ends])),
        least=-greatest([-least for least in numbers([end.min for end in ends])]),
        mean=mean,
        variance=variance,
        clip_ratio=clip_factor(norm, max_norm or math.inf),
    )


def _sums(part: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of a chunk, and that of the squared distances from its own mean; `wide` is overwritten."""
    wide.copy_(part.view(-1))
    total = wide.sum()
    return total, wide.sub_(total / part.numel()).square_().sum()


def _together(counts: list[int], totals: list[float], squares: list[float]) -> tuple[float, float]:
    """Mean and variance over all chunks, without the difference of two large sums."""
    count = sum(counts)
    mean = sum(totals) / count
    between = sum(n * (total / n - mean) * (total / n - mean) for n, total in zip(counts, totals, strict=True))
    return mean, (sum(squares) + between) / count
