"""The epoch that the newest version belongs to, added up from rows."""

from __future__ import annotations

import msgspec

from .protocol import Row
from .status import EpochStatus


class Epoch(msgspec.Struct, frozen=True):
    """What its versions add up to so far."""

    number: int = 0
    versions: int = 0
    loss_sum: float = 0.0
    weight: int = 0
    duration_s: float = 0.0


def after(epoch: Epoch, row: Row) -> Epoch:
    """The epoch with one more version, whose row is told the first time; v0 belongs to none."""
    if row.version == 0:
        return epoch
    if row.epoch != epoch.number:
        epoch = Epoch(row.epoch)
    return Epoch(
        number=epoch.number,
        versions=epoch.versions + 1,
        loss_sum=epoch.loss_sum + (row.loss or 0.0) * row.weight,
        weight=epoch.weight + row.weight,
        duration_s=epoch.duration_s + row.seconds.get("step", 0.0),
    )


def epoch_status(epoch: Epoch, micro_batches: int, steps_per_epoch: int) -> EpochStatus:
    """As a client sees it. The loss is the weighted mean over the epoch's targets so far."""
    return EpochStatus(
        number=epoch.number,
        micro_batches=epoch.versions * micro_batches,
        micro_batches_in_all=steps_per_epoch * micro_batches,
        loss=epoch.loss_sum / epoch.weight if epoch.weight else None,
        duration_s=epoch.duration_s,
    )
