"""Whether a run's last words may promise its digest to who trains its config again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from control.events import OrderGiven
from control.ledger import Ledger
from control.protocol import Wanted
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.record import OVERRIDES, follows_its_config


def paused(ledger: Ledger) -> None:
    ledger.record(OrderGiven(wanted=Wanted(number=1, paused=True), what="pause", request="r"))


def slowed(ledger: Ledger) -> None:
    paused(ledger)
    ledger.record(OrderGiven(wanted=Wanted(number=2, learning_rate=0.1), what="set_learning_rate", request="s"))


def overridden(ledger: Ledger) -> None:
    ledger.set(OVERRIDES, [{"version": 8, "lineage": 0, "max_steps": [16, 8]}])


@pytest.mark.parametrize(("befell", "follows"), [(paused, True), (slowed, False), (overridden, False)])
def test_a_run_follows_its_config_unless_something_changed_its_weights(
    tmp_path: Path, befell: Callable[[Ledger], None], follows: bool
) -> None:
    """A pause changes none; another rate, and another end for the schedule, do."""
    folder = RunFolder(tmp_path, "r")
    with Ledger.open(folder.ledger, "r") as ledger:
        befell(ledger)
        ledger.commit()
    assert follows_its_config(folder) is follows


def test_where_there_is_no_ledger_nothing_is_promised(tmp_path: Path) -> None:
    """Nor where it can't be read."""
    assert not follows_its_config(RunFolder(tmp_path, "r"))
