"""Clipping against torch, the schedule against its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightwatch.errors import ConfigError
from lightwatch.optim import clip_grad_norm_, clip_grad_value_, grad_norm, warmup_cosine

CHUNK = 1 << 17


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


def of_all_kinds(seed: int = 2) -> list[nn.Parameter]:
    """Large and tiny, one element and none, channels_last, cut out of another tensor, and one without a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    gradients: list[Tensor | None] = [
        drawn(2 * CHUNK + 3), drawn(16, 6), drawn(), drawn(1), drawn(0, 4), drawn(8, 3, 5, 5), drawn(64, 32, 9, 9),
        drawn(40, 40)[3:30, ::2], drawn(500, 600).t(), None,
    ]  # fmt: skip
    for place in (5, 6):
        gradients[place] = gradients[place].contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    parameters = [nn.Parameter(torch.zeros_like(drawn(3) if g is None else g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return parameters


def theirs(parameters: list[nn.Parameter], order: float) -> float:
    gradients = [p.grad.double() for p in parameters if p.grad is not None and p.numel()]
    return float(nn.utils.get_total_norm(gradients, order))


@pytest.mark.parametrize(("order", "within"), [(1, 1e-12), (2, 1e-4), (math.inf, 0.0)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_each_norm_is_torchs_own(order: float, within: float, scale: float) -> None:
    """Of the same gradients in float64, of every shape and memory order; the squares of a chunk are float32."""
    parameters = of_all_kinds()
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad *= scale
    assert grad_norm(parameters, order) == pytest.approx(theirs(parameters, order), rel=within, abs=0)
    assert grad_norm(iter(parameters), order) == grad_norm(parameters, order)
    assert grad_norm(parameters[0], order) == grad_norm(parameters[:1], order) > 0


def in_memory_order(gradient: Tensor) -> Tensor:
    """Its dimensions by falling stride; one with gaps stays in its own order."""
    dense = torch.ops.aten.is_non_overlapping_and_dense(gradient)
    order = np.argsort([-stride for stride in gradient.stride()], kind="stable").tolist()
    return gradient.permute(order) if dense else gradient


def test_the_norm_has_the_bits_of_its_rule() -> None:
    """Chunks of 128 Ki elements of each gradient in memory order, each by torch, their squares added up in order."""
    for seed in range(5):
        parameters, total = of_all_kinds(seed), 0.0
        for parameter in parameters:
            if parameter.grad is None:
                continue
            flat = in_memory_order(parameter.grad).reshape(-1)
            for begin in range(0, flat.numel(), CHUNK):
                total += float(torch.linalg.vector_norm(flat[begin : begin + CHUNK])) ** 2
        assert grad_norm(parameters) == math.sqrt(total)


@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_an_element_that_is_nan_or_infinite_shows_in_every_norm(order: float, place: int) -> None:
    """As in torch's own, wherever it stands; without any gradient the norm is 0."""
    for value in (math.nan, math.inf, -math.inf):
        parameters = with_gradients(1.0)
        parameters[place - 1 if place else 0].grad.view(-1)[place] = value  # type: ignore[union-attr]
        norm, other = grad_norm(parameters, order), theirs(parameters, order)
        assert math.isnan(norm) if math.isnan(value) else norm == math.inf
        assert math.isnan(norm) == math.isnan(other) and math.isinf(norm) == math.isinf(other)
    assert grad_norm([], order) == grad_norm(with_gradients(1.0)[-1:], order) == 0.0


def test_a_norm_whose_sum_leaves_float32_is_still_right() -> None:
    """Also of float64 gradients; a square that leaves float64 is infinite, as it is in torch, and no exception."""
    parameters = with_gradients(1e30)
    gradients = [p.grad for p in parameters if p.grad is not None]
    every = torch.cat([g.reshape(-1).double() for g in gradients])
    assert grad_norm(parameters) == pytest.approx(float(every.norm()), rel=1e-6)
    gradients[0].fill_(3e38)
    assert grad_norm(parameters, 1) == pytest.approx(210_000 * 3e38, rel=1e-4)
    double = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    double.grad = torch.full((2,), 1e200, dtype=torch.float64)
    assert grad_norm([double]) == theirs([double], 2) == math.inf
    assert grad_norm([double, *with_gradients(1.0)], 1) == pytest.approx(2e200)


@pytest.mark.parametrize("order", [0, 3, -math.inf, math.nan])
def test_other_orders_are_refused(order: float) -> None:
    with pytest.raises(ConfigError, match="order 1, 2 or math.inf, got"):
        grad_norm(with_gradients(1.0), order)


@pytest.mark.parametrize("value", [1e-3, 0.5, 1e9, 0.0, math.inf])
def test_clipping_values_equals_torchs_own(value: float) -> None:
    """Bit for bit, in place, over gradients of every kind; NaN stays, infinity becomes the limit."""
    ours, other = of_all_kinds(), of_all_kinds()
    for parameters in (ours, other):
        parameters[1].grad[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])  # type: ignore[index]
    places = [p.grad.data_ptr() for p in ours if p.grad is not None]
    clip_grad_value_(ours, value)
    nn.utils.clip_grad_value_(other, value)
    assert places == [p.grad.data_ptr() for p in ours if p.grad is not None]
    for mine, theirs_ in zip(ours, other, strict=True):
        assert (mine.grad is None) == (theirs_.grad is None)
        if mine.grad is not None and theirs_.grad is not None:
            torch.testing.assert_close(mine.grad, theirs_.grad, rtol=0, atol=0, equal_nan=True)
    clip_grad_value_([], value)


@pytest.mark.parametrize("limit", [-1.0, -math.inf, math.nan])
def test_a_limit_below_zero_is_refused_and_nothing_is_clipped(limit: float) -> None:
    """torch would turn the gradients round, or set them all to one value."""
    for clip in (clip_grad_norm_, clip_grad_value_):
        parameters = with_gradients(1.0)
        with pytest.raises(ConfigError, match=r">= 0, got"):
            clip(parameters, limit)
        assert torch.equal(parameters[0].grad, with_gradients(1.0)[0].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0.0, 1.0, math.inf])
def test_clipping_by_norm_equals_torchs_own_over_gradients_of_every_kind(limit: float) -> None:
    """None and empty ones too; a limit of 0 leaves nothing, one of infinity everything."""
    ours, other = of_all_kinds(), of_all_kinds()
    norm = clip_grad_norm_(ours, limit)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(other, limit)), rel=1e-5)
    for mine, theirs_ in zip(ours[:-1], other[:-1], strict=True):
        torch.testing.assert_close(mine.grad, theirs_.grad, rtol=1e-5, atol=0)
    assert clip_grad_norm_([], limit) == 0.0


def test_clipping_an_infinite_norm_is_torchs_and_a_nan_scales_nothing() -> None:
    """Infinite over infinite is NaN, all else becomes 0; where the norm is NaN the rest keeps its values."""
    ours, other = with_gradients(1.0), with_gradients(1.0)
    for parameters in (ours, other):
        parameters[0].grad[0, 0] = math.inf  # type: ignore[index]
    assert clip_grad_norm_(ours, 1.0) == math.inf == float(nn.utils.clip_grad_norm_(other, 1.0))
    for mine, theirs_ in zip(ours[:-1], other[:-1], strict=True):
        torch.testing.assert_close(mine.grad, theirs_.grad, rtol=0, atol=0, equal_nan=True)
    ours = with_gradients(1.0)
    ours[0].grad[0, 0] = math.nan  # type: ignore[index]
    assert math.isnan(clip_grad_norm_(ours, 1.0))
    assert torch.equal(ours[1].grad, with_gradients(1.0)[1].grad)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_norms_of_gradients_on_a_device_are_those_on_the_cpu() -> None:
    """Brought over at once; float32 and float64 gradients together."""
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    here = with_gradients(1.0)
    there = [nn.Parameter(p.detach().cuda()) for p in here]
    for parameter, other in zip(here, there, strict=True):
        other.grad = None if parameter.grad is None else parameter.grad.cuda()
    double = nn.Parameter(torch.zeros(3, dtype=torch.float64, device="cuda"))
    double.grad = torch.ones_like(double)
    for order in (1, 2, math.inf):
        assert grad_norm(there, order) == pytest.approx(grad_norm(here, order), rel=1e-5)
    assert grad_norm([double, *there]) == pytest.approx(math.sqrt(3 + grad_norm(here) ** 2), rel=1e-5)


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
