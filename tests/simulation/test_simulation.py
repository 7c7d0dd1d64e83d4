"""Control's own code in a world where everything goes wrong: each seed is one run, and replays.

`pytest --sim-seed N tests/simulation` plays one seed, shrinks what breaks and tells it as a story; `scripts/simulate`
plays thousands.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation import story
from tests.simulation.faults import KINDS, MIXED, THEMES, planned, theme_of
from tests.simulation.story import Played, played, shrunk, table, told
from tests.simulation.strikes import OF_A_SPHERE, OF_THE_WORLD

SEEDS = 500
PARTS = 10
COVERED: Counter[str] = Counter()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_run_keeps_all_laws_and_ends(part: int) -> None:
    """A seed that does not prints itself, the faults that it takes, and its story."""
    ends: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        run = played(seed)
        assert not run.law, f"pytest --sim-seed {seed} tests/simulation\n{told(shrunk(run))}"
        ends[run.what] += 1
        COVERED.update(run.counts)
    assert ends["completed"] > 0.8 * SEEDS / PARTS, ends
    print(f"{sum(ends.values())} seeds: {dict(ends)}")


def test_the_seeds_have_met_everything() -> None:
    """Each kind of fault has struck, each way to begin a generation was gone. Printed: how often anything happened."""
    if sum(COVERED[name] for name in COVERED if name.startswith("run ")) < SEEDS:
        pytest.skip("not all seeds were played in this process")
    print(table(COVERED))
    faults = {f"fault {kind}" for kind in (*OF_A_SPHERE, *OF_THE_WORLD)}
    ways = {"go here", "go here keep", "go record", "go fetch", "go load", "overflow", "closing tail", "torn line"}
    facts = {"SphereExpelled", "SphereBarred", "VersionSettled", "Remembered", "OrderTook", "control fenced",
             "SphereReleased", "sphere left", "left too late", "NewcomersReached", "dial failed"}  # fmt: skip
    assert not (faults | ways | facts) - set(COVERED)


def test_a_seed_replays_exactly() -> None:
    """The same story, line by line."""
    for seed in (3, 10, 12):
        one, two = played(seed), played(seed)
        assert one.log == two.log and one.counts == two.counts and one.log


def test_a_fault_left_out_changes_no_other() -> None:
    """Each keeps its kind, its moment and whom it strikes: so what breaks can be shrunk."""
    whole = {fault.number: fault for fault in planned(99, 10.0)}
    number = sorted(whole)[0]
    assert {fault.number: fault for fault in planned(99, 10.0, {number})} == {
        each: fault for each, fault in whole.items() if each != number
    }


def test_what_breaks_is_shrunk_to_the_faults_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five are needed here; the rest is left out of the story."""

    def play(seed: int, left_out: frozenset[int] = frozenset()) -> Played:
        faults = tuple(number for number in range(5) if number not in left_out)
        law = "one_digest_a_version" if {1, 3} <= set(faults) else "another" if faults else ""
        return Played(seed, law, law, Counter(), [(1.0, "world", f"fault {number}") for number in faults], faults)

    monkeypatch.setattr(story, "played", play)
    least = shrunk(play(7))
    assert least.faults == (1, 3) and least.law == "one_digest_a_version"
    assert told(least).splitlines()[1:3] == ["    1.00 s  world        fault 1", "    1.00 s  world        fault 3"]


def test_every_kind_of_fault_is_drawn_and_does_something() -> None:
    """A kind that no theme names, or that nothing is done for, would be missing in silence."""
    drawn = {kind for kinds in KINDS.values() for kind in kinds}
    assert drawn == {*OF_A_SPHERE, *OF_THE_WORLD}
    assert {theme_of(seed) for seed in range(40)} == {*THEMES, MIXED}


def test_the_seed_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    """`--sim-seed N`: its story, shrunk if a law breaks."""
    seed = request.config.getoption("--sim-seed", default=None)
    if seed is None:
        pytest.skip("no --sim-seed was given")
    run = played(int(seed))
    text = told(shrunk(run))
    print(text)
    assert not run.law, text
