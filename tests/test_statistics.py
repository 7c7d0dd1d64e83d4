"""The statistics of gradients, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightwatch.optim import clip_grad_norm_, grad_norm
from lightwatch.statistics import gradient_statistics

LIMIT = 1.0


def holding(*gradients: Tensor | None) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(3) if g is None else torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return parameters


def drawn(*shape: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    return mean + deviation * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


CASES: dict[str, list[Tensor | None]] = {
    "several chunks": [drawn(300_000), drawn(16, 6), None, drawn(5)],
    "channels_last": [drawn(64, 32, 9, 9).contiguous(memory_format=torch.channels_last), drawn(0, 3)],
    "cut out of another": [drawn(40, 40)[3:30, ::2], drawn(500, 600).t()],
    "one element": [torch.tensor(-3.5)],
    "all alike": [torch.full((200_000,), 0.1), torch.full((3,), 0.1)],
    "far from zero": [drawn(200_000, mean=1000.0, deviation=1e-2), drawn(70, mean=1000.0, deviation=1e-2)],
    "means that differ": [drawn(1000, mean=5.0), drawn(150_000, mean=-2.0), drawn(7)],
    "tiny": [drawn(1000, deviation=1e-30)],
}


@pytest.mark.parametrize("case", CASES)
def test_each_number_is_numpys(case: str) -> None:
    """Over all elements as one float64 array; the gradients keep their bits."""
    parameters = holding(*CASES[case])
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    found = gradient_statistics(parameters, LIMIT)
    every = np.concatenate([p.grad.numpy().astype(np.float64).ravel() for p in parameters if p.grad is not None])
    norm = float(np.linalg.norm(every))
    assert found.norm == grad_norm(parameters) == pytest.approx(norm, rel=1e-4)  # its squares are float32
    assert (found.largest, found.least) == (every.max(), every.min())
    assert found.mean == pytest.approx(every.mean(), rel=1e-12, abs=1e-14 * np.abs(every).max())
    assert found.variance == pytest.approx(every.var(), rel=1e-9, abs=1e-24)
    assert found.clip_ratio == pytest.approx(min(1.0, LIMIT / norm), rel=1e-4)
    for old, parameter in zip(before, parameters, strict=True):
        assert parameter.grad is old is None or torch.equal(old, parameter.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0.25, 1.0, 1e6])
def test_the_clip_ratio_is_what_clipping_does(limit: float) -> None:
    """The norm after over the norm before; exactly 1 where nothing is clipped."""
    parameters = holding(drawn(300), drawn(4))
    ratio = gradient_statistics(parameters, limit).clip_ratio
    before = clip_grad_norm_(parameters, limit)
    assert ratio == pytest.approx(grad_norm(parameters) / before, rel=1e-6)
    assert (ratio == 1.0) == (limit > before)


@pytest.mark.parametrize("limit", [0, 0.0, None])
def test_without_clipping_the_ratio_is_one(limit: float | None) -> None:
    assert gradient_statistics(holding(drawn(100)), limit).clip_ratio == 1.0


def test_without_gradients_all_is_zero_and_nothing_is_clipped() -> None:
    """No parameters, none with a gradient, or none with an element."""
    for parameters in ([], holding(None), holding(torch.zeros(0, 3))):
        found = gradient_statistics(parameters, LIMIT)
        assert (found.norm, found.largest, found.least, found.mean, found.variance, found.clip_ratio) == (
            *(0.0, 0.0, 0.0, 0.0, 0.0),
            1.0,
        )


def test_nan_shows_in_every_number_that_is_of_it_and_infinity_too() -> None:
    """In the last chunk as in the first."""
    for place in (0, 299_999):
        gradient = drawn(300_000)
        gradient[place] = math.nan
        found = gradient_statistics(holding(gradient, drawn(3)), LIMIT)
        assert all(map(math.isnan, (found.norm, found.largest, found.least, found.mean, found.variance)))
        assert found.clip_ratio == 1.0  # what clip_grad_norm_ does to them
        gradient[place] = -math.inf
        found = gradient_statistics(holding(gradient), LIMIT)
        assert (found.norm, found.least, found.mean, found.clip_ratio) == (math.inf, -math.inf, -math.inf, 0.0)
        assert found.largest == float(gradient.max())
