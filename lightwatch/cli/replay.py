"""A run's steps made once more, in this one process, and held against what its ledger says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from control.record import OrderRecord, RunRecord

from .. import job
from ..config import RunConfig, TrainingConfig
from ..errors import ConfigError, LightwatchError
from ..metrics import StepReport
from ..optim import warmup_cosine
from ..sync import Alone, Length, Position, Standing, Start, Wanted
from ..tail import Tail
from .audit import Contradiction, Plan, in_force_at, replayed_otherwise
from .record import OVERRIDES

COMPARED = ("loss", "learning_rate", "grad_norm", "clip_ratio", "weight", "samples", "skipped", "epoch", "eval_loss")


class OtherMachineError(ConfigError):
    """This machine, its config or its data are not those of the run, so the same steps would not give its bits."""


class Differs(Exception):
    """A version was made that is not the ledger's."""

    def __init__(self, contradiction: Contradiction) -> None:
        super().__init__(str(contradiction))
        self.contradiction = contradiction


class Ordered(Alone):
    """One process that obeys a ledger's orders, each from the version that the ledger names. A pause is nothing.

    It proves itself as a sphere of a tree does: the probe is taken, and what was summed is checked.
    """

    alone = False
    first = False

    def __init__(self, orders: list[OrderRecord], heard: Callable[[StepReport], None]) -> None:
        super().__init__(heard)
        self._given = orders
        self._rates = {order.number: order.learning_rate for order in orders}
        self.fingerprint: dict[str, str] = {}

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        self.fingerprint = fingerprint

    def begin(self, standing: Standing) -> Start:
        return replace(super().begin(standing), in_force=in_force_at(self._given, standing.position.version))

    def tail(self, tail: Tail, position: Position) -> Tail:
        tail.members["seen"][0] = in_force_at(self._given, position.version + 1)
        return tail

    def wanted(self, number: int) -> Wanted:
        return Wanted(number, learning_rate=self._rates.get(number))


class Replay:
    """The job of a run's own config, built here once more; `run` takes its steps."""

    def __init__(self, run: RunConfig, record: RunRecord, told: Callable[[int], None]) -> None:
        """told: called with each version as it stands. Reads the data and builds the model. Raises DataError."""
        self.checks = self.digests = 0
        self._record = record
        self._told = told
        self._compared = range(0)
        self._kept = {kept.version: kept for kept in record.versions}
        self._sync = Ordered(record.orders, self._heard)
        self._trainer = job.build(run, self._sync, factor_of(run.training, record))
        self._trainer.train_steps(0)

    def refuse_otherness(self) -> None:
        """Raises OtherMachineError, naming the first field in which this is not what the run's spheres were."""
        what = differing(self._record.fingerprint, self._sync.fingerprint)
        if what:
            raise OtherMachineError(
                f"{what}; its steps can't be made again here, for other bits would prove nothing: verify it where it "
                "was trained, or give --sample 0 to leave the replay out [LW532]"
            )

    def plan(self, run: RunConfig) -> Plan | None:
        """What config and data say of each version; None if the config is not the run's own, and without counts if the
        data are not. The text's targets are bytes: each of them is learned."""
        training, data = run.training, self._trainer.data
        recorded, here = self._record.fingerprint, self._sync.fingerprint
        changed = {name for name, value in recorded.items() if here.get(name) != value}
        if any(name.startswith("config.") for name in changed):
            return None
        if "data" in changed:
            return plan_of(training, self._record)

        @cache
        def samples(place: int) -> int:
            return sum(len(data.samples_of(place, index)) for index in range(training.micro_batches))

        def counts(version: int) -> tuple[int, int]:
            shown = samples((version - 1) % data.steps_per_epoch)  # how many depends on the place in the epoch alone
            return shown, shown * run.data.sequence_length

        return replace(
            plan_of(training, self._record), counts=counts, epoch_of=lambda version: data.epoch_of(version - 1)
        )

    def run(self, first: int, last: int) -> Contradiction | None:
        """Make versions up to `last`, from v0 on, and compare those from `first` on; the first that differs."""
        self._compared = range(first, last + 1)
        try:
            if 0 in self._compared:
                self._compare(self._v0)
            self._trainer.train_steps(last)
        except Differs as differs:
            return differs.contradiction
        except LightwatchError as error:  # such as NaN, where the run went on
            return Contradiction(self._trainer.version + 1, "step", str(error), "a version", "the replay")
        return None

    def _heard(self, report: StepReport) -> None:
        if report.version == 0:  # made before it is known whether this machine's are comparable
            self._v0 = report
            return
        if report.version in self._compared:
            self._compare(report)
        self._told(report.version)

    def _compare(self, report: StepReport) -> None:
        kept = self._kept.get(report.version)
        if kept is None:
            return  # the audit says so
        made: dict[str, Any] = {"check": report.check}
        if kept.digest is not None:
            made["digest"] = report.digest or self._trainer.digest()
        if report.version:
            made |= {name: _finite(getattr(report, name)) for name in COMPARED}
        contradiction = replayed_otherwise(kept, made)
        if contradiction is not None:
            raise Differs(contradiction)
        self.checks += kept.check is not None
        self.digests += kept.digest is not None


def plan_of(training: TrainingConfig, record: RunRecord) -> Plan:
    """What the config alone says of each version."""
    factor = factor_of(training, record)
    return Plan(training.micro_batches, training.max_steps, training.learning_rate, factor)


def factor_of(training: TrainingConfig, record: RunRecord) -> Callable[[int], float]:
    """The schedule: update -> factor. Up to a version at which max_steps was overridden, the one from before."""
    changes = sorted(record.notes.get(OVERRIDES, []), key=lambda each: int(each["version"]))

    def factor(update: int) -> float:
        most = next((each["max_steps"][0] for each in changes if update <= each["version"]), training.max_steps)
        return warmup_cosine(training.warmup_steps, most)(update)

    return factor


def differing(recorded: Mapping[str, str], here: Mapping[str, str]) -> str:
    """The first field of the run's fingerprint that is another one here, with both values; empty if none is."""
    for name, value in recorded.items():
        if here.get(name) != value:
            return f"{name} was {value!r} in the run and is {here.get(name, '')!r} here"
    return ""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
