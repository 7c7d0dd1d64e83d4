"""Exact accumulation against Python's integers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightwatch.exact import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    OVERFLOW_BOUND,
    UNCOUNTABLE_BOUND,
    UNMEASURED,
    Accumulator,
    checksum,
    is_measuring,
    measuring,
    needs_rescale,
    next_exponents,
    same_checksum,
    scale_exponent,
    write_mean,
)
from lightwatch.flat import FlatLayout

COUNT = 5


class Given(nn.Module):
    """One parameter whose gradient is whatever one says."""

    def __init__(self, count: int = COUNT) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(count))

    def backward(self, gradient: Tensor) -> None:
        (self.p * gradient).sum().backward()  # type: ignore[no-untyped-call]


def accumulated(
    gradients: Sequence[Sequence[float]], weights: Sequence[int], exponent: int, *, exact: bool = True
) -> Accumulator:
    model = Given(len(gradients[0]))
    part = Accumulator(FlatLayout(model), exact=exact)
    part.begin([exponent])
    for gradient, weight in zip(gradients, weights, strict=True):
        with part.micro_batch(weight):
            model.backward(torch.tensor(gradient, dtype=torch.float32))
        part.settle()
    return part


def rounded(gradient: float, weight: int, exponent: int) -> int:
    """round half to even of the float32 product, as a Python integer."""
    return int(np.rint(np.float32(np.float32(gradient) * np.float32(math.ldexp(weight, exponent)))))


finite = st.floats(-1e4, 1e4, width=32)
rows = st.lists(st.lists(finite, min_size=COUNT, max_size=COUNT), min_size=1, max_size=8)


@given(rows, st.data(), st.integers(-10, 24))
@settings(max_examples=150, deadline=None)
def test_without_a_flag_the_int32_sums_are_the_integer_sums(
    gradients: list[list[float]], data: st.DataObject, exponent: int
) -> None:
    """The bound certifies that nothing wrapped: below it int32 sums equal those of Python's integers."""
    weights = data.draw(st.lists(st.integers(1, 2**24 - 1), min_size=len(gradients), max_size=len(gradients)))
    part = accumulated(gradients, weights, exponent)
    bound = int(part.bounds[0])
    if bound >= OVERFLOW_BOUND:
        return
    expected = [sum(rounded(g[i], w, exponent) for g, w in zip(gradients, weights, strict=True)) for i in range(COUNT)]
    assert part.sums[:COUNT].tolist() == expected
    assert same_checksum(int(part.checks[0]), sum(expected))


@given(st.integers(1, 64), st.floats(0.5, 2.0, width=32), st.integers(1, 1000))
@settings(max_examples=60, deadline=None)
def test_all_maxima_at_one_element_never_wrap_unseen(count: int, size: float, weight: int) -> None:
    """Adversarial: every micro-batch has its maximum at the same place; the exponent is chosen at the very edge."""
    exponent = 30 - math.ceil(math.log2(count * size * weight))
    for shift in (0, 1, 2):
        part = accumulated([[size] * COUNT] * count, [weight] * count, exponent + shift)
        true = count * rounded(size, weight, exponent + shift)
        if true > 2**31 - 1:
            assert needs_rescale([exponent + shift], part.bounds.tolist(), 5)


def test_rounding_is_half_to_even() -> None:
    """0.5, 1.5, 2.5, -0.5, -1.5 become 0, 2, 2, 0, -2."""
    part = accumulated([[0.5, 1.5, 2.5, -0.5, -1.5]], [1], 0)
    assert part.sums[:COUNT].tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(("size", "weight", "exponent"), [(0.3, 1, -20), (0.3, 7, -20), (1.0, 1, -20), (2.5, 3, -22)])
def test_a_bound_is_rounded_up_for_each_micro_batch(size: float, weight: int, exponent: int) -> None:
    """Never below what it bounds: the sum over micro-batches of ceil(max|g| * w * 2^(e + 20))."""
    part = accumulated([[0.0, -size, 0.0, size / 2, 0.0]] * 3, [weight] * 3, exponent)
    assert int(part.bounds[0]) == 3 * math.ceil(float(np.float32(size)) * weight * 2.0 ** (exponent + 20))


def test_any_split_of_the_micro_batches_gives_the_same_sums() -> None:
    """Sums of two spheres' parts equal one sphere's, element by element, bounds and checksums too."""
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(6, COUNT, generator=generator).tolist()
    whole = accumulated(gradients, [3] * 6, 20)
    left, right = accumulated(gradients[:1], [3], 20), accumulated(gradients[1:][::-1], [3] * 5, 20)
    for name in ("sums", "bounds", "checks"):
        assert bool((getattr(whole, name) == getattr(left, name) + getattr(right, name)).all())


def test_float_sums_are_torchs_own_accumulation() -> None:
    """In float mode the sum is what `.grad` would hold after the same backwards in the same order."""
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(7, COUNT, generator=generator)
    plain = Given()
    for gradient in gradients:
        plain.backward(gradient)
    part = accumulated(gradients.tolist(), [1] * 7, 0, exact=False)
    assert plain.p.grad is not None
    assert torch.equal(part.sums[:COUNT], plain.p.grad)


@given(st.integers(LOWEST_EXPONENT, HIGHEST_EXPONENT), st.integers(1, UNCOUNTABLE_BOUND - 1), st.integers(1, 12))
def test_the_next_exponent_leaves_the_headroom(exponent: int, bound: int, headroom: int) -> None:
    """Had the new exponent been used, the bound would lie in [2^(50-h), 2^(51-h)), unless it was clamped."""
    (after,) = next_exponents([exponent], [bound], headroom)
    if LOWEST_EXPONENT < after < HIGHEST_EXPONENT:
        shifted = bound * 2.0 ** (after - exponent)
        assert 2.0 ** (50 - headroom) <= shifted < 2.0 ** (51 - headroom)


def test_a_parameter_without_a_gradient_keeps_its_exponent() -> None:
    assert next_exponents([UNMEASURED, 7], [0, 0], 5) == [UNMEASURED, 7]
    assert not needs_rescale([UNMEASURED, 7], [0, 0], 5)


def test_sums_made_to_measure_are_never_used() -> None:
    """A first gradient, an overflow and a fall below 17 bits each ask for a repetition; what fits does not."""
    fitting = 2 ** (51 - 5 - 1)
    assert needs_rescale([UNMEASURED], [fitting], 5)
    assert needs_rescale([3], [OVERFLOW_BOUND], 5)
    assert needs_rescale([3], [2**20], 5)
    assert not needs_rescale([3], [fitting], 5)
    assert not needs_rescale([HIGHEST_EXPONENT], [1], 5)
    assert is_measuring(measuring(LOWEST_EXPONENT)) and scale_exponent(measuring(-60)) == -60


@pytest.mark.parametrize("power", [-40, -20, -8, 0, 8, 20, 40])
def test_two_repetitions_reach_any_size(power: int) -> None:
    """A gradient 2^40 times larger or smaller than expected is summed with 17 bits after at most two rescales."""
    gradients = (torch.randn(4, COUNT, generator=torch.Generator().manual_seed(3)) * 2.0**power).tolist()
    exponents = [20 + 4]
    for _ in range(3):
        part = accumulated(gradients, [8] * 4, scale_exponent(exponents[0]))
        if not needs_rescale(exponents, part.bounds.tolist(), 5):
            break
        exponents = next_exponents(exponents, part.bounds.tolist(), 5)
    else:
        pytest.fail(f"no rest: {exponents}")
    mean = torch.zeros(part.layout.size)
    write_mean(part.layout, [part.sums], mean, exponents, 32)
    expected = torch.tensor(gradients, dtype=torch.float64).mean(0)
    error = (mean[:COUNT].double() - expected).norm() / expected.norm()
    assert error < 2e-5


def test_the_mean_is_written_over_the_sums_themselves() -> None:
    """One array serves as sums and as mean: reading and writing the same memory gives the bits of a copy."""
    part = accumulated(torch.randn(3, 300_001, generator=torch.Generator().manual_seed(4)).tolist(), [5] * 3, 20)
    apart = torch.zeros(part.layout.size)
    write_mean(part.layout, [part.sums.clone()], apart, [20], 15)
    over = part.sums.view(torch.float32)
    write_mean(part.layout, [part.sums], over, [20], 15)
    assert torch.equal(over, apart)


def test_nan_and_infinity_are_named_and_never_fit() -> None:
    for value in (math.nan, math.inf, -math.inf):
        model = Given()
        part = Accumulator(FlatLayout(model), exact=True)
        part.begin([20])
        with part.micro_batch(1):
            model.backward(torch.tensor([1.0, value, 0.0, 0.0, 0.0]))
        assert part.settle() == 0
        assert int(part.bounds[0]) >= OVERFLOW_BOUND


def test_a_checksum_finds_any_flipped_bit() -> None:
    """Equal modulo 2^32, and no single flipped bit of a sum leaves it equal."""
    part = accumulated([[1.0, -2.0, 3.0, 0.25, 9.0]], [7], 20)
    before = int(part.sums.sum())
    assert same_checksum(before, int(part.checks[0])) and same_checksum(before + 2**32, before)
    for bit in range(32):
        part.sums[2] ^= -(2**31) if bit == 31 else 1 << bit
        assert not same_checksum(int(part.sums.sum()), int(part.checks[0]))
        part.sums[2] ^= -(2**31) if bit == 31 else 1 << bit


def test_checksums_wrap_like_the_sums_themselves() -> None:
    """Of any length and any values, the largest too: Python's integer sum modulo 2^32."""
    generator = torch.Generator().manual_seed(5)
    for count in (0, 1, 7, 64, 1000, 131_072, 300_001):
        for low in (-(2**31), 2**31 - 1000):
            values = torch.randint(low, 2**31 - 1, (count,), generator=generator).to(torch.int32)
            assert int(checksum(values)) % 2**32 == sum(values.tolist()) % 2**32


def test_a_hook_that_fires_twice_is_added_twice_and_counted_once() -> None:
    """Two backward calls in one micro-batch: both gradients are in the sum and in the bound."""
    model = Given()
    part = Accumulator(FlatLayout(model), exact=True)
    part.begin([10])
    with part.micro_batch(1):
        model.backward(torch.ones(COUNT))
        model.backward(torch.ones(COUNT))
    part.settle()
    assert part.sums[:COUNT].tolist() == [2048] * COUNT
    assert part.fired == [1] and int(part.bounds[0]) == 2 * 2**30


def test_gradients_outside_a_micro_batch_are_left_alone() -> None:
    model = Given()
    part = Accumulator(FlatLayout(model), exact=True)
    part.begin([10])
    model.backward(torch.ones(COUNT))
    assert model.p.grad is not None and not part.sums.any()


def test_a_sparse_gradient_is_refused_by_name() -> None:
    model = nn.Embedding(10, 4, sparse=True)
    part = Accumulator(FlatLayout(model), exact=True)
    part.begin([10])
    with pytest.raises(TypeError, match="weight has a sparse gradient.*sparse=False"), part.micro_batch(1):
        model(torch.tensor([1, 2])).sum().backward()


def test_a_tied_weight_is_summed_once() -> None:
    """Used twice, fired once: its gradient is the sum of both uses, as in plain torch."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 4)
    part = Accumulator(FlatLayout(layer), exact=True)
    part.begin([20])
    with part.micro_batch(1):
        layer(layer(x)).sum().backward()
    part.settle()
    weight = layer.weight.detach().clone().requires_grad_()
    (x @ weight.T @ weight.T).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert part.sums[:16].tolist() == [rounded(g, 1, 20) for g in weight.grad.reshape(-1).tolist()]


def test_each_addition_is_told_once_it_is_made() -> None:
    """By number, and the so-manieth time in this micro-batch; the sum already holds the gradient."""
    model = nn.ParameterList([torch.zeros(3), torch.zeros(5)])
    part = Accumulator(FlatLayout(model), exact=True)
    told: list[tuple[int, int, list[int]]] = []
    part.on_added = lambda index, times: told.append((index, times, part.layout.slots[index].of(part.sums).tolist()))
    part.begin([10, 10])
    with part.micro_batch(1):
        model[0].sum().backward()
        (model[0].sum() + 2 * model[1].sum()).backward()
    assert told[0] == (1, 1, [1024] * 3)
    assert sorted(told[1:]) == [(0, 1, [2048] * 5), (1, 2, [2048] * 3)]
