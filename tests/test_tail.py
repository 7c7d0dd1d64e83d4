"""The tail: what it holds, when it is sound, what it means. Pure functions of one vector of integers."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightwatch.exact import (
    LOWEST_EXPONENT,
    OVERFLOW_BOUND,
    UNCOUNTABLE_BOUND,
    UNMEASURED,
    measuring,
    next_exponents,
)
from lightwatch.tail import (
    ATTEMPTS_MOST,
    MEMBER_FIELDS,
    MUST_BE_EQUAL,
    UNIT_FIELDS,
    Hopeless,
    NonFinite,
    Outcome,
    Repeat,
    Rescale,
    Suspicion,
    Tail,
    Unsound,
    Update,
    Verdict,
    decide,
    soundness,
)

PARAMETERS, BUCKETS, UNITS, MEMBERS = 3, 2, 4, 3
FITTING = 2**45
EXPONENTS = [20, 20, 20]


def sound_tail(units: int = UNITS, training: int = UNITS) -> Tail:
    """Four units of weight 10 with losses 1, 2, 3, 4 by members 0, 1, 2, 0, and bounds that fit."""
    tail = Tail(PARAMETERS, BUCKETS, units, MEMBERS)
    for unit in range(units):
        tail.take(unit, unit % MEMBERS, Outcome(float(unit + 1), 10, 5))
    tail.bounds[:] = FITTING
    tail.fired[:] = training
    for column in tail.members.values():
        column[:] = 17
    tail.members["late"][:] = 0
    return tail


def judge(tail: Tail, **changes: object) -> Verdict:
    values: dict[str, object] = {
        "exponents": EXPONENTS, "headroom_bits": 5, "attempt": 0, "suspicion": None, "training_units": UNITS,
    }  # fmt: skip
    return decide(tail, **{**values, **changes})  # type: ignore[arg-type]


# ------------------------------------------------------------ the record


def test_every_view_is_a_stretch_of_the_one_vector_and_none_overlap() -> None:
    """Writing a number of its own to each place fills the whole vector, once."""
    tail = Tail(PARAMETERS, BUCKETS, UNITS, MEMBERS)
    places = [tail.bounds, tail.fired, tail.checks, *tail.units.values(), *tail.members.values()]
    assert tuple(tail.units) == UNIT_FIELDS and tuple(tail.members) == MEMBER_FIELDS
    assert [len(p) for p in places] == [3, 3, 2] + [UNITS] * len(UNIT_FIELDS) + [MEMBERS] * len(MEMBER_FIELDS)
    number = 0
    for place in places:
        for i in range(len(place)):
            number += 1
            place[i] = number
    assert tail.vector.dtype == np.int64 and tail.vector.tolist() == list(range(1, number + 1))


def bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@pytest.mark.parametrize("loss", [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324])
def test_losses_travel_as_bits_and_survive_a_sum_over_members(loss: float) -> None:
    """A slot has one owner, so the integer SUM of all members' tails is a gather: NaN is kept, the last bit too."""
    tails = [Tail(PARAMETERS, BUCKETS, 2, MEMBERS) for _ in range(MEMBERS)]
    tails[1].take(0, 1, Outcome(loss, 7, 3, bad=2))
    tails[2].take(1, 2, Outcome(2.5, 8, 4))
    whole = Tail(PARAMETERS, BUCKETS, 2, MEMBERS)
    whole.vector[:] = sum(tail.vector for tail in tails)
    assert [bits(value) for value in whole.losses().tolist()] == [bits(loss), bits(2.5)]
    assert {name: column.tolist() for name, column in whole.units.items() if name != "loss"} == {
        "taken": [1, 1], "owner": [1, 2], "weight": [7, 8], "samples": [3, 4], "bad": [2, 0],
    }  # fmt: skip


def plain_mean(losses: Sequence[float], weights: Sequence[int]) -> float | None:
    """The law: added one after the other, from unit 0 on; divided once."""
    total = 0.0
    for i in range(len(losses)):
        total = total + losses[i] * weights[i] if weights[i] else total
    return total / sum(weights) if sum(weights) else None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**24 - 1)), max_size=12), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_mean_loss_is_added_in_index_order_whoever_took_what_when(
    units: list[tuple[float, int]], random: object
) -> None:
    """Bit for bit the loop over indices, for any order in which the slots were written."""
    tail = Tail(1, 1, len(units), 1)
    order = list(range(len(units)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for unit in order:
        tail.take(unit, 0, Outcome(units[unit][0], units[unit][1], 1))
    mean, weight = tail.mean_loss(0, len(units))
    assert weight == sum(w for _, w in units)
    assert mean == plain_mean([loss for loss, _ in units], [w for _, w in units])


def test_a_sum_in_another_order_would_be_another_number() -> None:
    """The law above has teeth: these losses, added backwards, differ in their last bit."""
    losses, tail = [1e16, 1.0, 1.0, 1.0], Tail(1, 1, 4, 1)
    for unit, loss in enumerate(losses):
        tail.take(unit, 0, Outcome(loss, 1, 1))
    assert tail.mean_loss(0, 4)[0] == 1e16 / 4
    assert tail.mean_loss(0, 4)[0] != sum(reversed(losses)) / 4


def test_the_mean_loss_is_of_the_units_asked_for_and_none_without_weight() -> None:
    """A unit without weight adds nothing, whatever its loss says."""
    tail = sound_tail()
    assert tail.mean_loss(1, 3) == (2.5, 20)
    assert tail.mean_loss(2, 2) == (None, 0)
    tail.units["weight"][1:3] = 0
    tail.units["loss"][1] = bits(math.nan)
    assert tail.mean_loss(1, 3) == (None, 0)
    assert tail.mean_loss(0, 4) == (2.5, 20)


# ------------------------------------------------------------ soundness


@pytest.mark.parametrize("checks", [None, [0, 0], [2**32, -(2**32)]])
def test_a_whole_tail_is_sound(checks: list[int] | None) -> None:
    assert soundness(sound_tail(), checks) is None


@pytest.mark.parametrize("times", [0, 2, -1])
@pytest.mark.parametrize("unit", [0, 3])
def test_a_micro_batch_lost_or_counted_twice_is_not_sound(unit: int, times: int) -> None:
    """The equation of every step, for training and evaluation alike; the sentence names the micro-batch."""
    tail = sound_tail()
    tail.units["taken"][unit] = times
    reason = f"micro-batch {unit} was counted {times} times, expected exactly once [LW304]"
    assert soundness(tail, None) == Unsound(reason)


@pytest.mark.parametrize("odd", range(MEMBERS))
@pytest.mark.parametrize("name", MUST_BE_EQUAL)
def test_members_that_disagree_are_told_apart_by_name_and_number(name: str, odd: int) -> None:
    tail = sound_tail()
    tail.members[name][odd] += 1
    assert soundness(tail, None) == Unsound(f"member {odd} stands apart in the {name} [LW304]", odd)
    told = soundness(tail, None, ["a/x", "a/y", "b"].__getitem__)
    assert told == Unsound(f"{['a/x', 'a/y', 'b'][odd]} stands apart in the {name} [LW304]", odd)


def test_without_a_majority_nobody_is_called_odd() -> None:
    """Of two that differ, or of three that all do, the first and one that differs from it are named."""
    tail = Tail(1, 1, 0, 2)
    tail.members["weights"][:] = [5, 6]
    assert soundness(tail, None) == Unsound("member 0 and member 1 disagree about the weights [LW304]")
    three = Tail(1, 1, 0, 3)
    three.members["deal"][:] = [5, 6, 7]
    assert soundness(three, None, own=1) == Unsound("member 0 and member 1 disagree about the deal [LW304]")


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("name", ["weights", "digest"])
def test_of_two_with_different_weights_each_is_the_odd_one(name: str, own: int) -> None:
    """Neither can be believed, so none of them goes on with its weights."""
    tail = Tail(1, 1, 0, 2)
    tail.members[name][:] = [5, 6]
    assert soundness(tail, None, own=own) == Unsound(f"member 0 and member 1 disagree about the {name} [LW304]", own)


@pytest.mark.parametrize(("own", "odd"), [(0, 1), (1, 1), (2, 1), (3, 3), (4, 1)])
def test_each_that_stands_apart_is_the_odd_one_to_itself(own: int, odd: int) -> None:
    """Also one whose state came from another that does: both leave, or the next would take it from there again."""
    tail = Tail(1, 1, 0, 5)
    tail.members["weights"][:] = [5, 6, 5, 6, 5]
    assert soundness(tail, None, own=own) == Unsound(f"member {odd} stands apart in the weights [LW304]", odd)


def test_members_may_have_seen_different_orders() -> None:
    """The newest order is a minimum, not an equation."""
    tail = sound_tail()
    tail.members["seen"][:] = [4, 2, 3]
    assert soundness(tail, None) is None


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_a_bucket_that_arrived_otherwise_is_not_sound(bucket: int) -> None:
    """Checksums count modulo 2^32; which bucket is in the sentence."""
    tail = sound_tail()
    tail.checks[:] = [5, -7]
    arrived = [5 + 2**32, 2**32 - 7]
    assert soundness(tail, arrived) is None
    arrived[bucket] ^= 1 << 31
    reason = f"bucket {bucket} arrived with another checksum than was added to it [LW304]"
    assert soundness(tail, arrived) == Unsound(reason)


def test_without_units_or_members_there_is_nothing_unsound() -> None:
    assert soundness(Tail(0, 0, 0, 0), None) is None


# ------------------------------------------------------------ verdicts


def test_a_fitting_step_is_taken_with_the_exponents_its_bounds_ask_for() -> None:
    """The loss is the weighted mean, the weight the sum; nobody was suspected."""
    tail = sound_tail()
    tail.bounds[:] = [FITTING, 2**44, 0]
    assert judge(tail) == Update([20, 51 - 5 - 45 + 20, 20], 2.5, 40)


def test_only_training_units_decide() -> None:
    """Units after them are an evaluation's: their losses, weights and flags are not the step's."""
    tail = sound_tail(units=6)
    tail.units["bad"][4:] = 3
    tail.units["loss"][4:] = bits(math.nan)
    assert judge(tail) == Update(next_exponents(EXPONENTS, [FITTING] * 3, 5), 2.5, 40)


def test_float_sums_have_no_exponents_and_no_bounds() -> None:
    tail = sound_tail()
    tail.bounds[:] = OVERFLOW_BOUND
    assert judge(tail, exponents=None) == Update([], 2.5, 40)


def test_a_step_without_weight_changes_no_exponent_and_has_no_loss() -> None:
    tail = sound_tail()
    tail.units["weight"][:] = 0
    tail.bounds[:] = 0
    assert judge(tail) == Update(EXPONENTS, None, 0)


@pytest.mark.parametrize("exponents", [EXPONENTS, None])
def test_a_flag_is_repeated_first_and_believed_when_it_comes_again(exponents: list[int] | None) -> None:
    """The first in index order is named: unit, parameter, and who computed it the second time."""
    tail = sound_tail()
    tail.units["bad"][1:3] = [2, 1]
    first = judge(tail, exponents=exponents)
    assert first == Repeat(Suspicion((0, 2, 1, 0), (), (1, 2)))
    assert isinstance(first, Repeat)
    tail.units["owner"][1:3] = [2, 0]
    again = judge(tail, exponents=exponents, attempt=1, suspicion=first.suspicion)
    assert again == NonFinite(unit=1, parameter=1, owner=2)


def test_another_flag_than_the_suspected_one_is_repeated_anew() -> None:
    """A sphere that flags at random never stops the run by itself."""
    tail = sound_tail()
    tail.units["bad"][1] = 2
    other = Suspicion((0, 0, 2, 0), (), (2,))
    assert judge(tail, attempt=1, suspicion=other) == Repeat(Suspicion((0, 2, 0, 0), (), (1,)))


def test_a_flag_that_does_not_come_again_is_cleared_and_its_owner_told() -> None:
    verdict = judge(sound_tail(), attempt=1, suspicion=Suspicion((0, 2, 0, 0), (), (1,)))
    assert isinstance(verdict, Update) and verdict.cleared == (1,)


@pytest.mark.parametrize("bound", [OVERFLOW_BOUND, 2**20])
def test_bounds_that_do_not_fit_are_measured_twice_and_then_scaled(bound: int) -> None:
    """Too large or too small: one repetition confirms, then the exponents are those the bounds ask for."""
    tail = sound_tail()
    tail.bounds[1] = bound
    first = judge(tail)
    assert first == Repeat(Suspicion((0,) * 4, (FITTING, bound, FITTING), ()))
    assert isinstance(first, Repeat)
    again = judge(tail, attempt=1, suspicion=first.suspicion)
    assert again == Rescale(next_exponents(EXPONENTS, [FITTING, bound, FITTING], 5))
    tail.bounds[1] += 1
    assert isinstance(judge(tail, attempt=1, suspicion=first.suspicion), Repeat)


def test_nan_goes_before_a_rescale() -> None:
    """A micro-batch that is NaN makes any bound; both flags confirmed, it is NaN that is told."""
    tail = sound_tail()
    tail.units["bad"][3] = 3
    tail.bounds[2] = OVERFLOW_BOUND
    first = judge(tail)
    assert isinstance(first, Repeat) and first.suspicion is not None
    assert first.suspicion.bounds == (FITTING, FITTING, OVERFLOW_BOUND)
    assert judge(tail, attempt=1, suspicion=first.suspicion) == NonFinite(3, 2, 0)


def test_a_step_that_finds_no_rest_ends_with_the_parameters_that_move() -> None:
    """After the last attempt nothing is repeated: neither for exponents nor for flags that differ each time."""
    tail = sound_tail()
    tail.bounds[1] = OVERFLOW_BOUND
    told = Suspicion((0,) * 4, (FITTING, OVERFLOW_BOUND, FITTING), ())
    assert judge(tail, attempt=ATTEMPTS_MOST - 1, suspicion=told) == Rescale(
        next_exponents(EXPONENTS, tail.bounds.tolist(), 5)
    )
    assert judge(tail, attempt=ATTEMPTS_MOST, suspicion=told) == Hopeless([1])
    assert judge(tail, attempt=ATTEMPTS_MOST, suspicion=None) == Hopeless()


@pytest.mark.parametrize("bound", [OVERFLOW_BOUND, UNCOUNTABLE_BOUND * 1000])
def test_a_gradient_too_large_for_the_smallest_exponent_is_told_at_once(bound: int) -> None:
    """Confirmed, and the same exponents would be asked for again: nothing is repeated for nothing."""
    tail = sound_tail()
    tail.bounds[1] = bound
    lowest = measuring(LOWEST_EXPONENT) if bound >= UNCOUNTABLE_BOUND else LOWEST_EXPONENT
    settled = [*next_exponents(EXPONENTS, [FITTING] * 3, 5)]
    exponents = [settled[0], lowest, settled[2]]
    tail.bounds[[0, 2]] = 2**45
    told = Suspicion((0,) * 4, tuple(tail.bounds.tolist()), ())
    assert judge(tail, exponents=exponents, attempt=1, suspicion=told) == Hopeless([1], stuck=True)


def test_sums_that_lack_a_late_gradient_are_repeated_whatever_else_they_say() -> None:
    """Their checksums don't fit, and their flags mean nothing: no suspicion comes of them, and none is forgotten."""
    tail = sound_tail()
    tail.checks[:] = 5
    tail.members["late"][1] = 1
    tail.bounds[0] = OVERFLOW_BOUND
    assert soundness(tail, [6, 5]) is None
    told = Suspicion((0,) * 4, (OVERFLOW_BOUND, FITTING, FITTING), ())
    assert judge(tail) == Repeat(None) and judge(tail, attempt=3, suspicion=told) == Repeat(told)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_the_slowest_is_the_first_of_those_that_were_busy_longest(busy_us: list[int]) -> None:
    tail = Tail(PARAMETERS, BUCKETS, UNITS, len(busy_us))
    tail.members["busy_us"][:] = busy_us
    assert tail.slowest() == (busy_us.index(max(busy_us)), max(busy_us) / 1e6)


def test_the_first_step_measures_and_is_repeated() -> None:
    """Marked exponents never make an update where a gradient came."""
    tail = sound_tail()
    assert isinstance(judge(tail, exponents=[UNMEASURED] * 3), Repeat)
    tail.bounds[:] = 0
    assert isinstance(judge(tail, exponents=[UNMEASURED] * 3), Update)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_verdict_is_a_function_of_the_vector_and_changes_nothing(data: st.DataObject) -> None:
    """Two spheres with the same summed vector say the same; the tail and the exponents are only read."""
    tail = sound_tail()
    tail.bounds[:] = data.draw(st.lists(st.integers(0, 2**52), min_size=3, max_size=3))
    tail.units["bad"][:] = data.draw(st.lists(st.integers(0, 4), min_size=UNITS, max_size=UNITS))
    tail.units["weight"][:] = data.draw(st.lists(st.integers(0, 9), min_size=UNITS, max_size=UNITS))
    copy = Tail(PARAMETERS, BUCKETS, UNITS, MEMBERS)
    copy.vector[:] = tail.vector
    exponents = data.draw(st.lists(st.integers(-60, 90), min_size=3, max_size=3))
    attempt = data.draw(st.integers(0, ATTEMPTS_MOST))
    first = judge(tail, exponents=exponents, attempt=attempt)
    assert judge(copy, exponents=tuple(exponents), attempt=attempt) == first
    assert (tail.vector == copy.vector).all() and soundness(tail, None) is soundness(copy, None) is None
    if isinstance(first, Update):
        assert not tail.units["bad"].any()


# ------------------------------------------------------------ sentences


def test_what_is_not_finite_is_told_with_parameter_micro_batch_step_and_sphere() -> None:
    """Index = number of parameters means the loss itself."""
    names = ["head", "body"]
    told = NonFinite(unit=3, parameter=1, owner=2).told(names, 41, "eu/a")
    assert "gradient of body" in told and "micro-batch 3 of step 42" in told and "by eu/a" in told
    assert "the weights are still those of version 41" in told
    assert NonFinite(unit=0, parameter=2, owner=0).told(names, 0, "0").startswith("the loss is NaN or infinite")


def test_what_finds_no_rest_is_told_with_the_parameters() -> None:
    assert "body" in Hopeless([1]).told(["head", "body"], 7) and "step 8" in Hopeless([1]).told(["head", "body"], 7)
    assert "step 8" in Hopeless().told(["head", "body"], 7)
    stuck = Hopeless([1], stuck=True).told(["head", "body"], 7)
    assert stuck.startswith("the gradient of body in step 8 is too large") and "version 7" in stuck
