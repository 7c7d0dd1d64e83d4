"""What control tells about an epoch equals what the rows of its versions add up to."""

from __future__ import annotations

import pytest

from control.epochs import Epoch, after, epoch_status
from control.protocol import NO_GENERATION, Row
from control.versions import Versions, reported


def rows() -> list[Row]:
    """v0, then seven versions: three of epoch 0, four of epoch 1; the last micro-batches of an epoch weigh less."""
    made = [Row(generation=NO_GENERATION, version=0, check=0)]
    for version in range(1, 8):
        epoch, weight = (0, 30 - version) if version < 4 else (1, 50 + version)
        loss, seconds = 3.0 / version, {"step": 0.5 * version, "compute": 9.0}
        made.append(
            Row(generation=NO_GENERATION, version=version, epoch=epoch, loss=loss, weight=weight, seconds=seconds)
        )
    return made


@pytest.mark.parametrize("number", [0, 1])
def test_an_epoch_is_the_sum_of_its_versions(number: int) -> None:
    """Finished micro-batches of all, the loss weighted by targets, the seconds of its steps."""
    epoch = Epoch()
    told = [row for row in rows() if row.epoch <= number]
    for row in told:
        epoch = after(epoch, row)
    mine = [row for row in told if row.epoch == number and row.version]
    found = epoch_status(epoch, micro_batches=8, steps_per_epoch=4)
    assert (found.number, found.micro_batches, found.micro_batches_in_all) == (number, 8 * len(mine), 32)
    weight = sum(row.weight for row in mine)
    assert found.loss == pytest.approx(sum((row.loss or 0) * row.weight for row in mine) / weight)
    assert found.duration_s == pytest.approx(sum(row.seconds["step"] for row in mine))


def test_a_version_that_all_spheres_report_counts_once() -> None:
    versions = Versions()
    for row in rows()[:4]:
        for sphere in (1, 2, 3):
            versions = reported(versions, sphere, row, exact=True)
    assert versions.epoch.versions == 3


def test_before_the_first_version_there_is_no_loss() -> None:
    assert epoch_status(Epoch(), 8, 4).loss is None
