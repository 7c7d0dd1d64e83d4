"""Exact accumulation: fixed-point int32 sums of gradients that any tree, order or retry repeats bit for bit.

How it works
  1. A parameter's gradient g of one micro-batch with weight w is rounded once to q = round_half_even(g * (w * 2^e))
     and added to an int32 accumulator while g is in cache; then g is freed.
  2. Integer sums are associative and commutative, so the deal of micro-batches can't matter. "Exact" means free of
     order, not more precise: the sum is about as good as a float32 sum.
  3. e, one per parameter, comes from the bound B = sum over micro-batches of max|g| * w * 2^(e + 20) of the step
     before, with `headroom_bits` to spare; B is an integer sum too. B also proves that nothing wrapped: while
     B < 2^51 - 2^41 no partial sum in any order leaves int32. Else the step is repeated with the measured exponents.
     Likewise when a gradient falls so far (2^9 below the headroom) that its sum would keep fewer than 17 bits.
  4. Each bucket keeps a checksum, the sum of all q that were added, modulo 2^32. Linear like the sums themselves, it
     finds bits that flipped in memory, on a wire or through a mistake of ours.

Where _sums.c could be compiled, one pass over g does all of 1, 3 and 4; else torch does it in six. The bits are equal.

`reduction = "float"` adds w * g as float32 in the same place; its bits depend on the order of additions.

An exponent may be marked "measuring": the sums made with it serve only to measure, and the step is repeated. Every
parameter starts so, hence a parameter that wakes up late is never rounded away; and one whose bound is past counting
(2^40 above what was expected) is measured with an exponent 40 lower, so that two rescales follow a jump of 2^40 either
way. Above about 1e27 no exponent fits, and the step is refused with the parameter's name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from .flat import CHUNK_ELEMENTS, FlatLayout, chunks, in_memory_order

try:
    from ._sums import mean, take
except ImportError as error:  # no compiler at installation, or compiled for another system
    logging.getLogger(__name__).debug("gradients are summed by torch calls: %s", error)
    KERNEL = "torch"
else:
    KERNEL = "c"
"""What sums gradients that lie on the CPU: "c" or "torch"; their bits are equal. Accumulators made later obey it."""

START_EXPONENT = 20
LOWEST_EXPONENT, HIGHEST_EXPONENT = -60, 90
BOUND_BITS = 20
OVERFLOW_BOUND = 2**51 - 2**41
UNCOUNTABLE_BOUND = 2**52
"""One micro-batch counts for at most this much, so that 1,024 of them still fit an int64."""
_MEASURING = 1000


def measuring(exponent: int) -> int:
    """Mark an exponent as one to measure with only."""
    return exponent - _MEASURING


def is_measuring(exponent: int) -> bool:
    return exponent < LOWEST_EXPONENT


def scale_exponent(exponent: int) -> int:
    """The exponent to quantise with, marked or not."""
    return exponent + _MEASURING if is_measuring(exponent) else exponent


UNMEASURED = measuring(START_EXPONENT)


def next_exponents(exponents: Sequence[int], bounds: Sequence[int], headroom_bits: int) -> list[int]:
    """The exponents after a step with these bounds: integers only, the same on every sphere.

    A parameter without a gradient (bound 0) keeps its exponent, a marked one too.
    """
    after = []
    for exponent, bound in zip(exponents, bounds, strict=True):
        if bound >= UNCOUNTABLE_BOUND:
            exponent = measuring(max(scale_exponent(exponent) - 40, LOWEST_EXPONENT))
        elif bound > 0:
            exponent = scale_exponent(exponent) + 51 - headroom_bits - bound.bit_length()
            exponent = min(max(exponent, LOWEST_EXPONENT), HIGHEST_EXPONENT)
        after.append(exponent)
    return after


def needs_rescale(exponents: Sequence[int], bounds: Sequence[int], headroom_bits: int) -> bool:
    """Whether sums with these bounds may have wrapped, kept too few bits, or were made to measure only."""
    few = 2 ** (51 - headroom_bits - 9)
    for exponent, bound in zip(exponents, bounds, strict=True):
        if bound >= OVERFLOW_BOUND or (bound > 0 and is_measuring(exponent)):
            return True
        if 0 < bound < few and exponent < HIGHEST_EXPONENT:
            return True
    return False


class Accumulator:
    """This sphere's own sums at one position, changed by whole micro-batches only.

    sums: int32 (exact) or float32 (float) in the flat layout; gloo never sees it. buckets: the same, cut.
    bounds: int64 per parameter, numpy's; fired: per parameter; checks: int64 per bucket. All are sums over `done`.
    on_added: called, in a backward, after a gradient was added: which parameter, the so-manieth time in this one.
    """

    def __init__(self, layout: FlatLayout, *, exact: bool) -> None:
        self.layout = layout
        self.exact = exact
        count = len(layout.slots)
        self.sums = torch.zeros(layout.size, dtype=torch.int32 if exact else torch.float32, device=layout.device)
        self.bounds = np.zeros(count, dtype=np.int64)
        self.fired = [0] * count
        self.checks = torch.zeros(len(layout.buckets), dtype=torch.int64, device=layout.device)
        self.buckets = [bucket.of(self.sums) for bucket in layout.buckets]
        self._tops = torch.zeros(count, dtype=torch.float64, device=layout.device)
        self._scaled = torch.empty(CHUNK_ELEMENTS, dtype=torch.float32, device=layout.device)
        self._rounded = torch.empty(CHUNK_ELEMENTS, dtype=torch.int32, device=layout.device)
        self._scales = [1.0] * count
        self._bound_scales = np.ones(count)
        self._firings = [0] * count
        self._open = False
        self._parameters = [slot.parameter for slot in layout.slots]
        self.on_added: Callable[[int, int], None] | None = None
        self._hooks = [
            slot.parameter.register_post_accumulate_grad_hook(self._hook(index))  # type: ignore[no-untyped-call]
            for index, slot in enumerate(layout.slots)
        ]

    def begin(self, exponents: Sequence[int]) -> None:
        """Start a position: empty sums, to be quantised with these exponents (ignored for float)."""
        self.sums.zero_()
        self.fired = [0] * len(self.fired)
        if self.exact:
            self.bounds.fill(0)
            self.checks.zero_()
            self._scales = [math.ldexp(1.0, scale_exponent(e)) for e in exponents]
            self._bound_scales = np.array(self._scales) * 2.0**BOUND_BITS

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def micro_batch(self, weight: int) -> Iterator[None]:
        """Around one backward of the mean loss (float: of the loss times weight). Gradients outside are not added.

        Drops those that stand before. If the backward raises, the sums hold part of a micro-batch: the caller must
        `begin` again.
        """
        self._weight = float(weight)
        self._tops.zero_()
        self._firings = [0] * len(self._firings)
        for parameter in self._parameters:  # what a backward outside has left would be added to this one's gradient
            parameter.grad = None
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def settle(self) -> int:
        """After a whole backward: add its bounds, and say which parameter was first to be NaN or Inf (-1: none)."""
        tops: list[float] = self._tops.tolist()
        if self.exact:
            bound = np.ceil(np.array(tops) * self._weight * self._bound_scales)
            self.bounds += np.fmin(bound, float(UNCOUNTABLE_BOUND)).astype(np.int64)  # fmin: a NaN loses
        self.fired = [fired + (times > 0) for fired, times in zip(self.fired, self._firings, strict=True)]
        if all(map(math.isfinite, tops)):
            return -1
        return next(place for place, top in enumerate(tops) if not math.isfinite(top))

    def _hook(self, index: int) -> Callable[[nn.Parameter], None]:
        slot = self.layout.slots[index]
        in_torch = self._in_torch(index)
        add = self._in_c(index, in_torch) if KERNEL == "c" and self.layout.device.type == "cpu" else in_torch

        def hook(parameter: nn.Parameter) -> None:
            gradient = parameter.grad
            if not self._open or gradient is None:
                return
            if gradient.is_sparse:
                raise TypeError(
                    f"parameter {slot.name} has a sparse gradient; "
                    "sums need dense ones: build its embedding with sparse=False [LW207]"
                )
            parameter.grad = None
            add(gradient)
            self._firings[index] += 1
            if self.on_added is not None:
                self.on_added(index, self._firings[index])

        return hook

    def _in_c(self, index: int, otherwise: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """One pass; `otherwise` takes what is no plain array in the parameter's own memory order."""
        slot = self.layout.slots[index]
        stride, count, float32 = slot.parameter.stride(), slot.count, torch.float32
        sums, top = slot.of(self.sums).data_ptr(), self._tops[index].data_ptr()
        check = self.checks[slot.bucket].data_ptr() if self.exact else 0

        def add(gradient: Tensor) -> None:
            plain = type(gradient) is Tensor and gradient.dtype is float32 and not gradient.is_neg()
            if plain and gradient.stride() == stride and gradient.numel() == count:
                take(sums, gradient.data_ptr(), count, top, check, self._weight * self._scales[index])
            else:
                otherwise(gradient)

        return add

    def _in_torch(self, index: int) -> Callable[[Tensor], None]:
        """Any gradient on any device, in as many passes as torch needs."""
        slot = self.layout.slots[index]
        pieces = list(chunks(slot.of(self.sums)))
        top, check = self._tops[index], self.checks[slot.bucket]

        @torch.no_grad()
        def add(gradient: Tensor) -> None:
            gradient = in_memory_order(gradient, slot.parameter)
            low, high = torch.aminmax(gradient)
            top.add_(torch.maximum(low.neg_(), high))
            scale = self._weight * self._scales[index]
            for piece, part in zip(pieces, chunks(gradient), strict=True):
                if self.exact:
                    self._add_exact(piece, part, scale, check)
                else:
                    piece.add_(part)

        return add

    def _add_exact(self, piece: Tensor, part: Tensor, scale: float, check: Tensor) -> None:
        scaled, rounded = self._scaled[: part.numel()], self._rounded[: part.numel()]
        rounded.copy_(torch.mul(part, scale, out=scaled).round_())
        piece.add_(rounded)
        check.add_(checksum(rounded))


def checksum(sums: Tensor) -> Tensor:
    """The sum modulo 2^32, as int32. Wrapping is the point: summed as int64 it would take three times as long."""
    return sums.sum(dtype=torch.int32)


def same_checksum(left: int, right: int) -> bool:
    """Checksums are equal modulo 2^32: int32 addition wraps and keeps sums in that ring."""
    return (left - right) % 2**32 == 0


def write_mean(
    layout: FlatLayout, sums: Sequence[Tensor], means: Tensor, exponents: Sequence[int] | None, weight: int
) -> None:
    """Turn sums into the weighted mean gradient: one division in one place.

    sums: a tensor per bucket, int32 with `exponents` or float32 with None. means: float32, flat layout; may share
    memory with `sums`.
    """
    if exponents is None:
        for bucket, each in zip(layout.buckets, sums, strict=False):
            torch.div(each, weight, out=bucket.of(means))
        return
    in_c = KERNEL == "c" and means.device.type == "cpu"
    home = _address(means, torch.float32, layout.size) if in_c else 0
    homes = [_address(s, torch.int32, b.end - b.begin) for b, s in zip(layout.buckets, sums, strict=False) if in_c]
    for slot, exponent in zip(layout.slots, exponents, strict=True):
        factor = math.ldexp(1.0, -scale_exponent(exponent)) / weight
        begin = slot.offset - layout.buckets[slot.bucket].begin
        if in_c:
            mean(home + 4 * slot.offset, homes[slot.bucket] + 4 * begin, slot.count, factor)
            continue
        summed = sums[slot.bucket][begin : begin + slot.count]
        for part, out in zip(chunks(summed), chunks(slot.of(means)), strict=True):
            torch.mul(part, factor, out=out)


def _address(tensor: Tensor, dtype: torch.dtype, count: int) -> int:
    """Where so many elements lie one after the other."""
    assert tensor.is_contiguous() and tensor.dtype is dtype and tensor.numel() == count
    return tensor.data_ptr()
