"""Sums in one pass of C against torch calls, Python's integers and numpy: the same bits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from lightwatch import exact
from lightwatch.exact import OVERFLOW_BOUND, Accumulator, write_mean
from lightwatch.flat import CHUNK_ELEMENTS, FlatLayout
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.house.source import ROOT
from tests.models import gpt_trainer
from tests.trees import train_on_tree

pytestmark = pytest.mark.skipif(exact.KERNEL != "c", reason="lightwatch was installed without a C compiler")

Floats = NDArray[np.float32]

LENGTHS = (1, 2, 3, 7, 15, 16, 17, 33, 64, 100, 255)
ODD = (0.0, -0.0, 0.5, 1.5, -2.5, 1e-45, -1e-45, 1.1754942e-38, 2.0**31, -(2.0**31), 3.4e38)
ENDLESS = (math.inf, -math.inf, math.nan)


@st.composite
def gradients(draw: st.DrawFn, others: st.SearchStrategy[float] | None = None) -> list[Floats]:
    """Some gradients of one length: a few odd numbers among normally distributed ones of any size."""
    count = draw(st.sampled_from(LENGTHS))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = st.one_of(st.sampled_from(ODD), st.floats(width=32, allow_nan=False, allow_infinity=False))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = (random.standard_normal(count) * 2.0 ** draw(st.integers(-60, 30))).astype(np.float32)
        for value in draw(st.lists(few if others is None else others, max_size=3)):
            row[random.integers(count)] = value
        rows.append(row)
    return rows


def accumulated(
    form: str, rows: Sequence[Tensor | Floats], weights: Sequence[int], exponent: int, *, exactly: bool = True
) -> tuple[Accumulator, list[int]]:
    """The sums in this form, and which parameter was found not to be finite after each micro-batch."""
    like = torch.as_tensor(rows[0])
    parameter = nn.Parameter(torch.empty_like(like, memory_format=torch.preserve_format).zero_())
    with patch.object(exact, "KERNEL", form):
        part = Accumulator(FlatLayout(nn.ParameterList([parameter])), exact=exactly)
    part.begin([exponent])
    bad = []
    for row, weight in zip(rows, weights, strict=True):
        with part.micro_batch(weight):
            parameter.backward(torch.as_tensor(row).clone())  # type: ignore[no-untyped-call]
        bad.append(part.settle())
    part.close()
    return part, bad


def seen(part: Accumulator) -> dict[str, Any]:
    """All that others see of it; checksums count modulo 2^32, and a NaN is a NaN."""
    sums = np.nan_to_num(part.sums.numpy(), nan=math.pi).view(np.int32)
    return {
        "sums": sums.tolist(),
        "bounds": part.bounds.tolist(),
        "fired": part.fired,
        "checks": [check % 2**32 for check in part.checks.tolist()],
    }


@given(gradients(), st.data(), st.integers(-60, 90))
@settings(max_examples=300, deadline=None)
def test_one_pass_gives_the_sums_of_pythons_integers(rows: list[Floats], data: st.DataObject, exponent: int) -> None:
    """Whatever still fits: half to even of the float32 product, denormals and negative zeros too."""
    weights = data.draw(st.lists(st.integers(1, 2**24 - 1), min_size=len(rows), max_size=len(rows)))
    part, _ = accumulated("c", rows, weights, exponent)
    if int(part.bounds[0]) >= OVERFLOW_BOUND:
        return
    scaled = [row * np.float32(math.ldexp(weight, exponent)) for row, weight in zip(rows, weights, strict=True)]
    expected = [sum(map(round, column)) for column in zip(*(row.tolist() for row in scaled), strict=True)]
    assert part.sums.tolist()[: len(expected)] == expected
    assert int(part.checks[0]) % 2**32 == sum(expected) % 2**32


@pytest.mark.parametrize("exactly", [True, False])
@given(st.one_of(gradients(), gradients(st.sampled_from(ENDLESS))), st.data(), st.integers(-60, 90))
@settings(max_examples=300, deadline=None)
def test_one_pass_and_torch_calls_give_the_same_bits(
    exactly: bool, rows: list[Floats], data: st.DataObject, exponent: int
) -> None:
    """Sums, bounds, checksums and flags, also where nothing fits, overflows, or is not finite."""
    weights = data.draw(st.lists(st.integers(1, 2**24 - 1), min_size=len(rows), max_size=len(rows)))
    one, one_bad = accumulated("c", rows, weights, exponent, exactly=exactly)
    other, other_bad = accumulated("torch", rows, weights, exponent, exactly=exactly)
    assert (seen(one), one_bad) == (seen(other), other_bad)
    if exactly:
        assert int(one.checks[0]) % 2**32 == int(one.sums.sum()) % 2**32


@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("count", [CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS + 1, 3 * CHUNK_ELEMENTS + 65])
def test_lengths_beyond_a_chunk_are_summed_whole(count: int, exactly: bool) -> None:
    """Torch works in chunks, C does not; half of these q wrap the checksum many times."""
    rows = list(np.random.default_rng(count).standard_normal((2, count)).astype(np.float32))
    one, _ = accumulated("c", rows, [3, 5], 26, exactly=exactly)
    other, _ = accumulated("torch", rows, [3, 5], 26, exactly=exactly)
    assert seen(one) == seen(other)


@pytest.mark.parametrize("skipped", range(17))
@pytest.mark.parametrize("count", [0, 1, 5, 16, 31, 32, 33, 100])
def test_no_place_in_memory_matters_and_nothing_else_is_touched(count: int, skipped: int) -> None:
    """A gradient may begin at any float of a larger array; sums before and after stay."""
    from lightwatch._sums import take

    gradient = torch.randn(150, generator=torch.Generator().manual_seed(count))
    sums = torch.arange(150, dtype=torch.int32)
    top, check = torch.full((1,), 0.25, dtype=torch.float64), torch.full((1,), 7)
    part = gradient[skipped : skipped + count]
    expected = sums.clone()
    q = (part * 1e6).round().to(torch.int32)
    expected[17 : 17 + count] += q
    take(sums[17:].data_ptr(), part.data_ptr(), count, top.data_ptr(), check.data_ptr(), 1e6)
    assert torch.equal(sums, expected)
    assert int(check) == 7 + int(q.sum())
    assert float(top) == 0.25 + (float(part.abs().max()) if count else 0.0)


ODD_GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "negated view": lambda random: torch._neg_view(random.clone()),
    "other strides": lambda random: random.to(memory_format=torch.channels_last),
    "expanded": lambda random: random[:1, :1].expand_as(random),
    "cut out of a larger one": lambda random: random.repeat(1, 1, 1, 3)[..., 1:3],
}
"""What a gradient may be besides a plain array in the parameter's own order. Fresh: then torch takes it as it is."""


@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("kind", ODD_GRADIENTS)
def test_a_gradient_that_is_no_plain_array_is_summed_as_what_it_says(kind: str, exactly: bool) -> None:
    """Not the bytes that happen to lie at its address."""
    model = nn.ParameterList([torch.zeros(4, 3, 5, 2)])
    part = Accumulator(FlatLayout(model), exact=exactly)
    part.begin([20])
    random = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1))
    model[0].register_hook(lambda _: ODD_GRADIENTS[kind](random))
    with part.micro_batch(3):
        model[0].sum().backward()
    given = ODD_GRADIENTS[kind](random).contiguous().reshape(-1)
    expected = (given * 3 * 2.0**20).round().to(torch.int32) if exactly else given
    assert torch.equal(part.sums[: given.numel()], expected)
    assert part.settle() == -1 and part.fired == [1]


@pytest.mark.parametrize("over", [True, False])
@given(st.sampled_from(LENGTHS), st.integers(0, 2**32 - 1), st.integers(-60, 90), st.integers(1, 2**30))
@settings(max_examples=100, deadline=None)
def test_the_mean_is_one_factor_rounded_once(over: bool, count: int, seed: int, exponent: int, weight: int) -> None:
    """In both forms, over the sums themselves or apart, numpy's float32 product."""
    random = np.random.default_rng(seed)
    layout = FlatLayout(nn.ParameterList([torch.zeros(count), torch.zeros(3)]))
    values = (random.integers(-(2**31), 2**31, layout.size) >> random.integers(0, 31, layout.size)).astype(np.int32)
    for form in ("c", "torch"):
        sums = torch.from_numpy(values.copy())
        means = sums.view(torch.float32) if over else torch.zeros(layout.size)
        with patch.object(exact, "KERNEL", form):
            write_mean(layout, [sums], means, [exponent, 20], weight)
        for slot, each in zip(layout.slots, (exponent, 20), strict=True):
            factor = np.float32(2.0**-each / weight)
            expected = values[slot.offset : slot.offset + slot.count].astype(np.float32) * factor
            assert slot.of(means).tolist() == expected.tolist()


@pytest.mark.parametrize("form", ["c", "torch"])
def test_each_bucket_has_its_own_checksum_and_its_own_array(form: str) -> None:
    """The sums that are reduced come bucket by bucket, each from its own beginning."""
    model = nn.ParameterList([torch.zeros(70), torch.zeros(600_000), torch.zeros(700_000)])
    layout = FlatLayout(model)
    with patch.object(exact, "KERNEL", form):
        part = Accumulator(layout, exact=True)
        part.begin([3, 4, 5])
        with part.micro_batch(2):
            (model[0].sum() + 2 * model[1].sum() + 3 * model[2].sum()).backward()
        buckets = [bucket.of(part.sums).clone() for bucket in layout.buckets]
        means = torch.zeros(layout.size)
        write_mean(layout, buckets, means, [3, 4, 5], 4)
    assert part.checks.tolist() == [int(bucket.sum()) for bucket in buckets]
    assert [slot.of(means).tolist() for slot in layout.slots] == [[1.5] * 700_000, [1.0] * 600_000, [0.5] * 70]


PROCESSORS = {"plain": "", "avx2": "-mavx2", "avx512f": "-mavx512f", "all that it has": "-march=native"}


@pytest.mark.parametrize("name", PROCESSORS)
def test_no_processor_gives_other_bits(name: str, tmp_path: Path) -> None:
    """The same source compiled for one processor only; also where it could fuse a product with a sum."""
    if name.startswith("avx") and f" {name} " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor could not run it")
    flags = f"-DEACH_PROCESSOR= {PROCESSORS[name]}"
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        str(tmp_path),
        "--build-temp",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CFLAGS": flags}, capture_output=True, text=True)
    (file,) = tmp_path.rglob("_sums*.so")
    assert done.returncode == 0, done.stderr
    loader = ExtensionFileLoader("lightwatch._sums", str(file))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    rows = np.random.default_rng(1).integers(0, 2**32, (3, 100_003), dtype=np.uint32).view(np.float32)
    rows[1] = np.random.default_rng(2).standard_normal(100_003).astype(np.float32)
    for exactly in (True, False):
        expected, _ = accumulated("c", list(rows), [3, 5, 7], 20, exactly=exactly)
        with patch.object(exact, "take", module.take):
            found, _ = accumulated("c", list(rows), [3, 5, 7], 20, exactly=exactly)
        assert seen(found) == seen(expected)


@pytest.mark.parametrize("tree", ["2", "a:2,b:1"])
def test_spheres_that_sum_in_different_ways_are_one_run(tree: str) -> None:
    """A sphere without a compiler beside others that have one: the digest of one process with either."""

    def mixed(sync: Alone) -> Trainer:
        with patch.object(exact, "KERNEL", ("torch", "c")[sync.rank % 2]):
            return gpt_trainer(sync)

    digests = {trainer.digest() for trainer in train_on_tree(tree, mixed)}
    assert digests == {train_on_tree("1", gpt_trainer)[0].digest()}
