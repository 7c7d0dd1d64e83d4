"""Who computes how much: whole micro-batches by measured speed, dealt anew when it pays. Bits never depend on it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.deal import counts, deal, is_worth, time_s
from control.events import OrderGiven
from control.paces import AGAIN, LAPS
from tests.control.play import Play

PACES = st.dictionaries(st.integers(1, 9), st.floats(0.001, 10.0), min_size=1, max_size=3)


def best_s(units: int, paces: dict[int, float]) -> float:
    """The least time of all ways to give whole micro-batches, by trying each."""
    ways = product(range(units + 1), repeat=len(paces))
    spheres = list(paces)
    return min(
        max(count * paces[sphere] for sphere, count in zip(spheres, way, strict=True))
        for way in ways
        if sum(way) == units
    )


@given(st.integers(0, 10), PACES)
def test_no_other_deal_of_whole_micro_batches_ends_sooner(units: int, paces: dict[int, float]) -> None:
    """Tried against all of them."""
    assert time_s(counts(units, list(paces), paces), paces) == pytest.approx(best_s(units, paces))


@given(st.integers(0, 40), PACES)
def test_a_deal_gives_each_index_once_in_order(units: int, paces: dict[int, float]) -> None:
    """In blocks, as the spheres stand in the tree."""
    dealt = deal(range(units), list(paces), paces)
    assert [index for indices in dealt.values() for index in indices] == list(range(units))


def test_a_sphere_of_unknown_pace_counts_as_the_usual_one() -> None:
    """It has just come."""
    assert counts(6, [1, 2, 3], {1: 0.2, 2: 0.2}) == {1: 2, 2: 2, 3: 2}


def test_noise_and_tiny_steps_are_not_worth_another_deal() -> None:
    """A tenth of the time, and some milliseconds, must be saved."""
    assert is_worth(8, [1, 2], {}, {1: 0.1, 2: 0.3})
    assert not is_worth(8, [1, 2], {}, {1: 0.1, 2: 0.101})
    assert not is_worth(8, [1, 2], {}, {1: 0.0001, 2: 0.0003})


class Workshop:
    """A tree whose spheres take as long as the test says, step after step, and compute what they were dealt."""

    def __init__(self, *paces: float, micro_batches: int = 16) -> None:
        self.paths = tuple(str(place) for place in range(len(paces)))
        self.play = Play(*self.paths)
        for path in self.paths:
            self.play.hello(path)
        for path in self.paths:
            self.play.prove(path, micro_batches=micro_batches)
        for path in self.paths:
            self.play.ready(path)
        self.micro_batches = micro_batches
        self.paces = dict(zip(range(1, len(paces) + 1), paces, strict=True))
        self.version = 0

    def dealt(self) -> dict[int, int]:
        taken = [order for order in self.play.state.orders if order.version is not None]
        return counts(self.micro_batches, list(self.paces), taken[-1].wanted.paces if taken else {})

    def step(self, wobble: float = 0.0) -> float:
        """One more version; how long its slowest sphere took."""
        self.version += 1
        given_ = self.dealt()
        for sphere, count in given_.items():
            off = 1 + wobble * (1 if (self.version + sphere) % 2 else -1)
            seconds = {"compute": count * self.paces[sphere] * off, "step": 1.0}
            self.play.row(
                str(sphere - 1),
                self.version,
                own_units=count,
                seconds=seconds,
                in_force=len(self.play.state.orders),
                attempts=1,
            )
        return time_s(given_, self.paces)

    def deals(self) -> int:
        return sum(isinstance(fact, OrderGiven) and fact.what == "deal" for fact in self.play.facts)


@pytest.mark.parametrize("slow", [3.0, 10.0])
def test_five_steps_after_a_sphere_is_slow_a_step_takes_what_the_best_deal_takes(slow: float) -> None:
    """Of 16 micro-batches, next to every assignment there is."""
    shop = Workshop(0.1, 0.1, 0.1 * slow)
    for _ in range(5):
        shop.step()
    assert shop.step() <= 1.1 * best_s(16, shop.paces)


def test_when_the_speed_changes_the_deal_does_and_back_again() -> None:
    """Within the steps that control keeps in mind; the slow sphere that got nothing is tried again."""
    shop = Workshop(0.1, 0.1)
    for _ in range(10):
        shop.step()
    assert shop.deals() == 0
    shop.paces[2] = 2.0
    for _ in range(25):
        shop.step()
    assert shop.step() <= 1.1 * best_s(16, shop.paces)
    assert shop.dealt()[2] == 0
    shop.paces[2] = 0.1
    for _ in range(AGAIN + 25):
        shop.step()
    assert shop.step() <= 1.1 * best_s(16, shop.paces)


def test_a_pace_that_wavers_does_not_make_orders_without_end() -> None:
    """Each deal is looked at for longer than the one before."""
    shop = Workshop(0.1, 0.1, 0.1)
    for _ in range(300):
        shop.step(wobble=0.3)
    assert shop.deals() <= 300 // LAPS // 10


def test_a_pace_that_changes_for_ever_makes_ever_fewer_orders() -> None:
    """They are kept by all: their number grows as the root of the versions'."""
    shop, made = Workshop(0.1, 0.1, 0.1), []
    for version in range(1600):
        shop.paces[1] = 0.3 if version // 30 % 2 else 0.1
        shop.step()
        made.append(shop.deals())
    assert made[399] > 5 and made[1599] <= 2.5 * made[399] and made[1599] <= (1600 / 2) ** 0.5 + 1
