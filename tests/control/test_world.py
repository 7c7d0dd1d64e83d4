"""The shipped control in a world where everything goes wrong: each seed is one schedule, and replays.

`World(seed, faults).run()` again shows what was bad; `log` says what happened.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.mutations import MUTATIONS, RARE
from tests.control.world import played

SEEDS = 500
PARTS = 5
FAULTS = 6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of runs have thousands of stories."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_schedule_heals_and_completes(part: int) -> None:
    """Right sums, one history, no order undone, never two trees, and an end once the faults stop."""
    ends = Counter(played(seed, FAULTS) for seed in range(part, SEEDS, PARTS))
    assert set(ends) <= {"completed", "stopped"}, [end for end in ends if end not in ("completed", "stopped")]
    assert ends["completed"] > 0.9 * SEEDS / PARTS


@pytest.mark.parametrize("seed", [11548, 15076, 15970, 17708, 19642, 21747, 25290, 25559])
def test_schedules_that_once_broke_heal(seed: int) -> None:
    """Rare ones: a few in ten thousand."""
    assert played(seed, 8) in ("completed", "stopped")


def test_the_real_ledger_keeps_what_the_worlds_does(tmp_path: Path) -> None:
    """The same schedules end alike with SQLite under them."""
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert played(seed, 12, folder) == played(seed, 12) in ("completed", "stopped")


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - RARE))
def test_a_rule_taken_away_is_noticed(name: str) -> None:
    """Else the world would prove nothing. Most are noticed by the first seeds, the rarest by the 50th."""
    undo = MUTATIONS[name]()
    try:
        for seed in range(300):
            try:
                noticed = played(seed, 12).startswith("seed ")
            except Exception:
                noticed = True
            if noticed:
                return
    finally:
        undo()
    raise AssertionError(f"300 schedules without the rule {name!r} were as good as with it")
