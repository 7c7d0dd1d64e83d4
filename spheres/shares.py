"""Who computes what in one generation. The same on every member, for all know the same: Go, tails, orders.

A deal is Go's at the position where the generation began, for it alone knows what the members have done there; on a
repetition the former owners', each moved on by one; else by the paces of the order in force.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from control.deal import staying
from control.protocol import Go, Wanted
from lightwatch.sync import Position

from .state import deal, deal_further_on, share_out
from .words import position_of


class Shares:
    """Of the members `ids`, by rank. check: one word for the whole of the last deal, equal on all who have the same."""

    def __init__(self, go: Go, ids: Sequence[int]) -> None:
        self._go = go
        self._ids = ids
        self._begun = False
        self._owners: tuple[Position, list[int]] | None = None
        self.training = 0
        self.check = 0

    def begins_anew(self, position: Position, training: int) -> bool:
        """Whether sums that Go told to keep were begun with already: they can't be told again."""
        return self._begun and self._go.keep and self._is_gos(position, training)

    def of(self, me: int, position: Position, training: int, evaluation: int, wanted: Wanted) -> Sequence[int]:
        """The units of sphere `me`: training ones, then those of an evaluation, which are shared evenly.

        wanted: the order in force. Who is to leave is dealt nothing, but at the version where the generation began:
        there not all may have the same order in force.
        """
        leaving = wanted.leaving if position.version > self._go.position.version else []
        workers = staying(self._ids, leaving)
        if self._is_gos(position, training):
            self._begun = True
            shares = self._go.deal
        elif self._owners is not None and self._owners[0] == position._replace(attempt=position.attempt - 1):
            shares = deal_further_on(self._owners[1], self._ids, leaving)
        else:
            shares = deal(training, workers, wanted.paces, position.attempt)
        evaluations = share_out(evaluation, workers, position.attempt)
        self.training = training
        self.check = zlib.crc32(repr((sorted(shares.items()), evaluations)).encode())
        return [*shares.get(me, ()), *(training + unit for unit in evaluations.get(me, []))]

    def computed(self, position: Position, owners: list[int]) -> None:
        """A tail has told who computed what at a position: ranks by unit."""
        self._owners = (position, owners[: self.training])

    def _is_gos(self, position: Position, training: int) -> bool:
        return training > 0 and position == position_of(self._go.position)
