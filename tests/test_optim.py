"""Clipping against torch, the schedule against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightwatch.optim import clip_grad_norm_, grad_norm, warmup_cosine


def with_gradients(scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(300, 700), (5,), (3, 4, 5), ()]]
    for parameter in parameters[:-1]:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return parameters


@pytest.mark.parametrize("scale", [1e-6, 0.001, 1.0, 1e6])
def test_clipping_equals_torchs_own(scale: float) -> None:
    """Same norm, same gradients, within float32's rounding; gradients below the limit keep their bits."""
    ours, theirs = with_gradients(scale), with_gradients(scale)
    norm = clip_grad_norm_(ours, 1.0)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, 1.0)), rel=1e-5)
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=0)
    if norm <= 1.0:
        assert torch.equal(ours[0].grad, with_gradients(scale)[0].grad)  # type: ignore[arg-type]
    else:
        assert grad_norm(ours) == pytest.approx(1.0, rel=1e-5)


def test_the_norm_is_the_float64_norm() -> None:
    parameters = with_gradients(1.0)
    every = torch.cat([p.grad.reshape(-1).double() for p in parameters if p.grad is not None])
    assert grad_norm(parameters) == pytest.approx(float(every.norm()), rel=1e-6)


@pytest.mark.parametrize(("warmup", "total"), [(20, 1000), (0, 1000), (1, 2), (1000, 1000), (2000, 1000), (5, 5)])
def test_the_schedule_is_its_closed_form(warmup: int, total: int) -> None:
    """Update k of 1,000: k/W up to W, then half a cosine; never 0, never above 1, never rising after the warm-up."""
    factor = warmup_cosine(warmup, total)
    for k in range(1, 1001):
        if k <= warmup:
            expected = k / warmup
        elif total <= warmup:
            expected = 1.0
        else:
            expected = (1 + math.cos(math.pi * (min(k, total) - warmup) / (total - warmup + 1))) / 2
        assert factor(k) == pytest.approx(expected, abs=1e-12)
        assert 0.0 < factor(k) <= 1.0
    assert factor(max(warmup, 1)) == pytest.approx(1.0, abs=3e-6 if warmup == 0 else 1e-12)
