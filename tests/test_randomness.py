"""Random numbers without a stream: keys by hash, seeds for everything, a shuffle at an index."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightwatch import randomness
from lightwatch.randomness import (
    AHEAD,
    SINGLE,
    Shuffle,
    kept_randomness,
    key,
    permuted,
    permuted_range,
    seed_everything,
)

LOW = (1 << 32) - 1  # all that torch's CPU generator looks at


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**62), index=st.integers(0, 1023), k=st.integers(0, 61))
def test_steps_a_power_of_two_apart_have_other_streams(seed: int, step: int, index: int, k: int) -> None:
    """`seed + (step << 32)` would repeat itself; the low halves of the keys differ, for steps, indices and seeds."""
    here = key(seed, step, index, "data") & LOW
    assert here != key(seed, step + 2**k, index, "data") & LOW
    assert here != key(seed, step, index + 2**k, "data") & LOW
    assert here != key(seed + 2**k, step, index, "data") & LOW
    assert here != key(seed, step, index, "model") & LOW


def test_the_numbers_drawn_differ_for_every_power_of_two() -> None:
    """The same law at torch itself: each stream is drawn from and compared."""
    streams = set()
    for step in [0, *(2**k for k in range(63))]:
        seed_everything(key(1, step, 3, "model"))
        streams.add((tuple(torch.rand(4).tolist()), random.random(), float(np.random.rand())))
    assert len(streams) == 64


def test_a_key_is_the_hash_of_its_four_names() -> None:
    """Fixed for ever: another formula gives every run other bits. 64 bits, and no two names run together."""
    expected = int.from_bytes(hashlib.blake2b(b"1/23/4/data", digest_size=8).digest(), "little")
    assert key(1, 23, 4, "data") == expected != key(12, 3, 4, "data")
    keys = {key(seed, step, index, "data") for seed in range(4) for step in range(40) for index in range(40)}
    assert len(keys) == 6400 and max(keys) > 2**63 and min(keys) >= 0


def test_one_seed_sets_torch_random_and_numpy() -> None:
    """Whatever data code draws from, it draws the same again."""

    def drawn() -> tuple[list[float], float, float]:
        return torch.rand(3).tolist(), random.random(), float(np.random.rand())

    seed_everything(2**64 - 1)
    first = drawn()
    second = drawn()
    seed_everything(2**64 - 1)
    assert drawn() == first != second
    seed_everything(2**64 - 2)
    other = drawn()
    assert all(mine != theirs for mine, theirs in zip(other, first, strict=True))
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_everything(5)
    assert torch.equal(torch.rand(3), expected)


def test_randomness_is_kept_over_a_block_that_draws_seeds_and_fails() -> None:
    """All three generators go on as if the block had not been."""
    seed_everything(7)
    expected = (torch.rand(2).tolist(), random.random(), float(np.random.rand()))
    seed_everything(7)
    with pytest.raises(ZeroDivisionError), kept_randomness():
        seed_everything(1)
        torch.rand(5), random.random(), np.random.rand()
        raise ZeroDivisionError
    assert (torch.rand(2).tolist(), random.random(), float(np.random.rand())) == expected


@settings(max_examples=150, deadline=None)
@given(length=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_a_shuffle_is_a_bijection_at_every_length(length: int, seed: int) -> None:
    """Every index lands inside, no two on the same place."""
    assert sorted(permuted(index, length, seed) for index in range(length)) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 255, 256, 257, 2**16 - 1, 2**16, 2**16 + 1])
def test_a_shuffle_is_a_bijection_at_the_edges(length: int) -> None:
    """At and beside powers of two, where the walk is none or longest."""
    assert len({permuted(index, length, 99) for index in range(length)}) == length


@given(length=st.integers(2**40, 2**62), seed=st.integers(0, 2**64 - 1), place=st.floats(0, 1, exclude_max=True))
def test_a_shuffle_of_a_huge_length_costs_no_memory(length: int, seed: int, place: float) -> None:
    """One index of 2^62 is answered at once, inside, and its neighbour lands elsewhere."""
    index = min(int(place * length), length - 2)
    here, there = permuted(index, length, seed), permuted(index + 1, length, seed)
    assert 0 <= here < length and 0 <= there < length and here != there


def test_every_order_of_a_small_set_comes_up_about_equally_often() -> None:
    """Over 12,000 keys all 24 orders of four are there, none twice as often as its share or half."""
    seen = Counter(tuple(permuted(index, 4, key(1, k, 0, "order")) for index in range(4)) for k in range(12_000))
    assert set(seen) == set(permutations(range(4)))
    assert all(250 < count < 1000 for count in seen.values())


def test_a_shuffle_leaves_no_trace_of_the_order() -> None:
    """Places and neighbours of 20,000 are as uncorrelated as by chance (six sigmas), few stay where they were."""
    length = 20_000
    order = np.array([permuted(index, length, key(3, 1, 0, "order")) for index in range(length)])
    bound = 6 / np.sqrt(length)
    assert abs(np.corrcoef(np.arange(length), order)[0, 1]) < bound
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound
    assert (order == np.arange(length)).sum() < 12 and (np.diff(order) == 1).sum() < 12


def test_another_key_is_another_order() -> None:
    """Two epochs of one run, or two runs, share no more places than by chance."""
    orders = [[permuted(index, 1000, key(seed, epoch, 0, "order")) for index in range(1000)] for seed, epoch in
              [(0, 0), (0, 1), (1, 0)]]  # fmt: skip
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert sum(a == b for a, b in zip(orders[one], orders[other], strict=True)) < 12


@pytest.mark.parametrize(("index", "length"), [(-1, 5), (5, 5), (0, 0)])
def test_an_index_outside_is_refused(index: int, length: int) -> None:
    """Never wrapped around: it would show a sample twice."""
    with pytest.raises(IndexError, match=rf"range\({length}\), got {index}"):
        permuted(index, length, 1)


@pytest.mark.parametrize(
    ("length", "numbers"),
    [
        (1, [0, 0, 0]),
        (2, [0, 1, 1]),
        (3, [2, 0, 1]),
        (1000, [214, 336, 388]),
        (2**20, [793064, 491494, 428497]),
        (2**31 + 11, [1405015147, 955935567, 798337429]),
        (2**62 - 1, [3094574011088687455, 2123594692320009804, 841736537109711370]),
    ],
)
def test_the_order_of_a_run_is_fixed_for_ever(length: int, numbers: list[int]) -> None:
    """First, middle and last place of an epoch, written down: another formula would give every run other bits."""
    order = key(1, 2, 0, "order")
    assert [permuted(place, length, order) for place in (0, length // 2, length - 1)] == numbers


@settings(max_examples=60, deadline=None)
@given(
    length=st.sampled_from([1, 2, 3, 1000, 2**20, 2**20 + 1, 2**31 + 11, 2**62 - 1]),
    seed=st.integers(0, 2**64 - 1),
    place=st.floats(0, 1),
    count=st.integers(0, 60),
)
def test_a_range_is_permuted_like_each_of_its_places(length: int, seed: int, place: float, count: int) -> None:
    """numpy's integers wrap where Python's are cut: the same numbers, from any start, as plain ints."""
    start = min(int(place * length), length)
    stop = min(start + count, length)
    numbers = permuted_range(start, stop, length, seed)
    assert numbers == [permuted(index, length, seed) for index in range(start, stop)]
    assert all(type(number) is int for number in numbers)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 6), (4, 3)])
def test_a_range_outside_is_refused(start: int, stop: int) -> None:
    """Like a place outside."""
    with pytest.raises(IndexError, match=rf"range\(5\), got {start} to {stop}"):
        permuted_range(start, stop, 5, 1)


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([1, 7, SINGLE, AHEAD, AHEAD + 1, 3 * AHEAD + 5]),
    asked=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1), st.sampled_from([1, 8, SINGLE, AHEAD + 3]), st.integers(1, 9))
    ),
)
def test_a_shuffle_gives_the_same_whatever_was_asked_before(
    length: int, asked: list[tuple[int, float, int, int]]
) -> None:
    """Runs of reading from any place of any epoch, over the ends of blocks and of the epoch; little is ever kept."""
    shuffle, most = Shuffle(5, length), AHEAD
    for epoch, place, count, times in asked:
        most = max(most, count)
        start = min(int(place * length), length - 1)
        for first in range(start, min(start + count * times, length), count):
            stop = min(first + count, length)
            order = key(5, epoch, 0, "order")
            assert shuffle.numbers(epoch, first, stop) == permuted_range(first, stop, length, order)
            assert len(shuffle._block[2]) <= most


def test_reading_ahead_never_costs_more_than_it_can_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads on makes a block for AHEAD places; whoever takes 8 of each 8192, one for SINGLE that it took."""
    made = []

    def counted(start: int, stop: int, length: int, key: int) -> list[int]:
        made.append(stop - start)
        return permuted_range(start, stop, length, key)

    monkeypatch.setattr(randomness, "permuted_range", counted)
    whole = Shuffle(1, 16 * AHEAD)
    for start in range(0, 16 * AHEAD, 8):
        whole.numbers(0, start, start + 8)
    assert made == [AHEAD] * 15 + [AHEAD - SINGLE + 8]
    made.clear()
    part = Shuffle(1, 2**40)
    for step in range(1024):
        part.numbers(0, step * 8192, step * 8192 + 8)
    assert len(made) <= 1024 * 8 // SINGLE
