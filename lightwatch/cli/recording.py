"""The Sync of a run of one process: it trains alone, and leaves what control would have left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from torch import nn

from control.ledger import Ledger
from control.metrics import metrics_line
from control.protocol import NO_GENERATION
from control.protocol import Row as LedgerRow
from control.record import OrderRecord
from control.status import Totals
from control.totals import Account, booked, saved

from ..config import TrainingConfig
from ..errors import ReductionError
from ..metrics import Closing, StepReport
from ..sync import Alone, How, Length, Position, Wanted
from ..tail import Tail
from .audit import in_force_at
from .rows import Row, parse_row
from .summary import costs

log = logging.getLogger("lightwatch")

OF_THE_MACHINE = ("lightwatch", "torch", "device", "machine", "cpu_capability", "environment", "matmul_precision")
"""What a fingerprint says of where a run is, and not of what it is."""


class Recording(Alone):
    """Writes each version to ledger and metrics, and keeps the model of the last one.

    keep: called with the model once the last version is closed. configured: with the trainer's config. tell: with each
    version's row. stop_wanted: asked at each version, for beginning to train takes an earlier stop order back.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: IO[bytes],
        *,
        tell: Callable[[Row], None],
        keep: Callable[[nn.Module], Path],
        configured: Callable[[TrainingConfig], None],
        stop_wanted: Callable[[], bool],
    ) -> None:
        super().__init__(self._record)
        self._ledger = ledger
        self._metrics = metrics
        self._tell = tell
        self._keep = keep
        self._configured = configured
        self._stop_wanted = stop_wanted
        self._account = Account()
        self._past: tuple[OrderRecord, ...] = ()
        self._known = -1
        self._micro_batches = 0
        self.fingerprint: dict[str, str] = {}

    def obey(self, orders: Sequence[OrderRecord], known: int) -> None:
        """What a tree was ordered before this process went on with its run: each holds again from its own version on;
        from version `known` on, where nobody had come, all of them do. A pause or a stop is over."""
        self._past, self._known = tuple(orders), known

    def take(self, wanted: Wanted) -> None:
        super().take(wanted)
        for order in self._past:
            if order.number < len(self._orders):
                self._orders[order.number] = Wanted(order.number, learning_rate=order.learning_rate)
            else:
                self.order(learning_rate=order.learning_rate)

    def tail(self, tail: Tail, position: Position) -> Tail:
        tail = super().tail(tail, position)
        if position.version < self._known:
            tail.members["seen"][0] = in_force_at(self._past, position.version + 1)
        return tail

    @property
    def totals(self) -> Totals:
        """What all versions so far add up to."""
        return self._account.totals

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        self._tell_otherness(fingerprint)
        self.fingerprint = fingerprint
        self._configured(config)
        self._micro_batches = config.micro_batches
        for key, value in (
            ("fingerprint", fingerprint),
            ("micro_batches", config.micro_batches),
            ("max_steps", length.max_steps),
        ):
            self._ledger.set(key, value)

    def records(self) -> tuple[dict[str, Any], ...]:
        """What a checkpoint keeps of each sphere: of the one that there is."""
        return ({"path": self.path, **costs({self.path: self.totals}, [])},)

    def leave(self) -> None:
        """The script has ended: so does its training, if it has not yet."""
        if self.finish is not None:
            self.finish()

    def closed(self, closing: Closing, model: nn.Module) -> None:
        begin_s = time.perf_counter()
        path = self._keep(model)
        self._account = saved(self._account, time.perf_counter() - begin_s)
        super().closed(closing, model)
        if self.kept is not None:
            self.kept(path)

    def _record(self, report: StepReport) -> None:
        if self._stop_wanted():
            self.order(stopped=True)
        told = asdict(report) | {"slowest": None, "suspects": []}  # nobody waits for anybody, nor throws it out
        del told["how"]
        row = LedgerRow(generation=NO_GENERATION, **told)
        self._account = booked(self._account, row)
        line = metrics_line(row, self._micro_batches)
        self._refuse_another(row)
        self._ledger.record_row(row)
        if report.how == How.HERE.value and report.version and self._ledger.row(0) is None:
            self._ledger.set("begun_at", report.version)  # the script took it from another run
        if report.how != How.HERE.value:  # no step made what training begins with; control writes no line for it either
            self._metrics.write(line)
        shown = parse_row(line)
        if shown is not None:
            self._tell(shown)

    def _tell_otherness(self, here: dict[str, str]) -> None:
        """A run that goes on elsewhere may come to other bits than it would have had where it was begun."""
        before = self._ledger.get("fingerprint") or {}
        for name in OF_THE_MACHINE:
            if before.get(name, here.get(name)) != here.get(name):
                told = f"{name} was {before[name]!r} when the run began and is {here.get(name)!r} here"
                log.warning("%s: from here on its bits may be other ones than it would have had", told)

    def _refuse_another(self, row: LedgerRow) -> None:
        """What is made again, after going on from a checkpoint, must be what the ledger holds already."""
        known = self._ledger.row(row.version)
        same = known is not None and known.lineage == row.lineage
        if known is not None and same and known.check is not None and known.check != row.check:
            raise ReductionError(
                f"version {row.version} was made again with other weights (check {row.check}) than the ledger says "
                f"({known.check}): this is not the machine, the data or the code that the run began with [LW533]"
            )
