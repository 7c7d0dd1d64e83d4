"""The simulation notices what it is for: each planted bug, and by which law."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import laws
from tests.simulation.planted import Bug, Stale, bugs, noticed, planted

BUGS = bugs()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: Bug, tmp_path: Path) -> None:
    """By one of the laws that it breaks."""
    found = noticed(bug, tmp_path)
    assert found, f"no seed noticed that {bug.what}"
    print(f"{bug.name}: {found['law']}, seed {found['seed']}, the {found['tried']}. tried")
    assert found["law"] in bug.laws, found


def test_there_are_enough_of_them_and_each_names_laws_that_there_are() -> None:
    """At least 20, the names once each."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20
    assert {law for bug in BUGS for law in bug.laws} <= set(vars(laws))


def test_a_bug_whose_text_is_gone_is_refused() -> None:
    """Code that has changed would else be tested without any bug in it."""
    with pytest.raises(Stale, match=r"holds its text 0 times"):
        planted("something else", BUGS[0])
    with pytest.raises(Stale, match=r"holds its text 2 times"):
        planted(BUGS[0].old * 2, BUGS[0])
