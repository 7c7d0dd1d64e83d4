"""What evaluations have given so far: state of a training like its weights, and the same on every sphere."""

from __future__ import annotations

import math
from typing import Any

from .tail import Tail


class Evaluations:
    """loss: of the newest. best: the lowest, with its version. closing: loss and weight of the last closing tail's."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.best: tuple[float, int] | None = None
        self.closing: tuple[float | None, int] = (None, 0)

    def book(self, tail: Tail, training: int, version: int) -> float | None:
        """The loss of the evaluation in this tail, if there was one: of `version`, units `training` and on."""
        units = tail.units["weight"].size
        if units == training:
            return None
        loss, weight = tail.mean_loss(training, units)
        if loss is None or not weight:
            return None
        self.loss = loss
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = (loss, version)
        return loss

    def close(self, tail: Tail, version: int) -> None:
        """The same for a closing tail, which has no other units."""
        self.closing = self.book(tail, 0, version), int(tail.units["weight"].sum())

    def facts(self) -> list[Any]:
        return [self.loss, self.best, self.closing]

    def take(self, facts: list[Any]) -> None:
        """Go on from another trainer's `facts`."""
        self.loss, self.best, self.closing = facts
