"""Sums over the tree against numpy's int64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from control.status import Traffic
from spheres.groups import Groups
from spheres.reduce import sum_over_tree
from tests.spheres.spheres_as_threads import TREES, members_of, on_spheres, results

LENGTH = 4099


def numbers(index: int, length: int = LENGTH, limit: int = 2**31 // 16) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Sphere `index`'s own: no two the same, and sums of up to 16 that just fit."""
    return np.random.default_rng(index).integers(-limit, limit, length)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_sums_over_any_tree_equal_the_one_process_sum(tree: str, dtype: torch.dtype) -> None:
    """Bit for bit, on every sphere, twice in a row on the same groups; also for one element, and for few."""

    def work(groups: Groups, index: int) -> list[torch.Tensor]:
        tensors = [torch.from_numpy(numbers(index, length)).to(dtype) for length in (LENGTH, 1, 3, LENGTH)]
        for tensor in tensors:
            sum_over_tree(groups, tensor)
        return tensors

    spheres = len(members_of(tree))
    for tensors in results(on_spheres(tree, work)):
        for tensor in tensors:
            expected = sum(numbers(index, len(tensor)) for index in range(spheres))
            assert tensor.dtype == dtype
            np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("tree", ["2", "3", "2x2", "a:2,b:1", "a:1,a/x:2,b:2"])
def test_float_sums_are_the_same_bits_on_every_sphere(tree: str) -> None:
    """Near the exact sum, and equal everywhere, since one leader's result is what all get."""

    def work(groups: Groups, index: int) -> torch.Tensor:
        tensor = torch.from_numpy(numbers(index)).to(torch.float32)
        sum_over_tree(groups, tensor)
        return tensor

    tensors = results(on_spheres(tree, work))
    expected = sum(numbers(index) for index in range(len(tensors)))
    for tensor in tensors:
        assert tensor.numpy().tobytes() == tensors[0].numpy().tobytes()
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e3)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 2, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)[::2], torch.zeros(4, dtype=torch.float16)],
)
def test_a_tensor_that_is_not_flat_or_not_exact_is_refused_before_it_is_sent(tensor: torch.Tensor) -> None:
    """Two dimensions, a stride, a half float: our mistakes, heard of before gloo is asked."""

    def work(groups: Groups, index: int) -> list[Traffic]:
        with pytest.raises(ValueError, match="only contiguous 1-D tensors"):
            sum_over_tree(groups, tensor)
        return groups.meter.lines()

    assert results(on_spheres("2", work)) == [[], []]
