"""What a run with faults came to: one object for programs, a table for people, and whether every promise was kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .chaos_measure import Cost, Work
from .terminal import Terminal

TIMES = ("detect_ms", "recover_ms", "back_ms")


@dataclass(frozen=True)
class Outcome:
    """Everything that is reported. clean, chaos: what each run computed; planned: how many faults."""

    tree: str
    steps: int
    seed: int
    planned: int
    hung: str
    failed: str
    clean_digest: str | None
    chaos_digest: str | None
    differs_at: int | None
    """The first version whose weights differ, as far as both ledgers have a check."""
    states_differ: bool
    costs: tuple[Cost, ...]
    clean: Work
    chaos: Work
    versions_while_control_dead: int

    @property
    def equal(self) -> bool:
        """The same weights at the end, the same optimizer's state, and no version between that differs."""
        known = self.clean_digest is not None and self.clean_digest == self.chaos_digest
        return known and self.differs_at is None and not self.states_differ and not self.failed

    @property
    def goodput(self) -> float | None:
        """The clean run's time from first version to last, over that of the run with faults, if it got there."""
        if self.chaos.versions < self.clean.versions:
            return None
        clean_s, chaos_s = self.clean.first_to_last_s, self.chaos.first_to_last_s
        return round(clean_s / chaos_s, 4) if clean_s and chaos_s else None

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept, a sentence each."""
        told = []
        if self.hung:
            told.append(f"the run with faults hung: {self.hung} [LW902]")
        elif self.failed:
            told.append(f"the run with faults failed: {self.failed} [LW902]")
        elif not self.equal:
            where = f", first at version {self.differs_at}" if self.differs_at is not None else ""
            told.append(f"the runs differ{where}: clean {self.clean_digest}, with faults {self.chaos_digest} [LW902]")
        if self.chaos.though_held:
            redone = self.chaos.though_held
            told.append(f"{redone} finished steps were made again, though a sphere held them that no fault hit [LW902]")
        missing = self.planned - len(self.costs)
        if missing > 0:
            told.append(
                f"{missing} of {self.planned} planned faults did not happen before the run's end: give more --steps, "
                "or fewer faults [LW903]"
            )
        return told


def as_object(outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints and chaos.json holds."""
    return {
        "equal": outcome.equal,
        "hung": bool(outcome.hung),
        "clean_digest": outcome.clean_digest,
        "chaos_digest": outcome.chaos_digest,
        "faults": [asdict(cost) for cost in outcome.costs],
        **percentiles(outcome.costs),
        "by_kind": {
            kind: {"count": len(costs), **percentiles(costs)} for kind, costs in by_kind(outcome.costs).items()
        },
        "recomputed_micro_batches": outcome.chaos.recomputed_micro_batches,
        "redone_steps": outcome.chaos.redone_steps,
        "goodput": outcome.goodput,
        "versions_while_control_dead": outcome.versions_while_control_dead,
        "tree": outcome.tree,
        "steps": outcome.steps,
        "seed": outcome.seed,
        "planned": outcome.planned,
        "clean_s": _rounded(outcome.clean.first_to_last_s),
        "chaos_s": _rounded(outcome.chaos.first_to_last_s),
        "differs_at": outcome.differs_at,
        "broken": outcome.broken,
    }


def by_kind(costs: Iterable[Cost]) -> dict[str, list[Cost]]:
    """The costs of each kind of fault, kinds in the order of the alphabet."""
    found: dict[str, list[Cost]] = {}
    for cost in sorted(costs, key=lambda each: each.kind):
        found.setdefault(cost.kind, []).append(cost)
    return found


def percentiles(costs: Iterable[Cost]) -> dict[str, float | None]:
    """The 50th and 99th of each time, by the nearest rank, over the faults that have it; None of none."""
    every = list(costs)
    known = {name: [value for cost in every if (value := getattr(cost, name)) is not None] for name in TIMES}
    return {f"{name}_p{percent}": percentile(known[name], percent) for name in TIMES for percent in (50, 99)}


def percentile(values: list[float], percent: int) -> float | None:
    """The nearest rank; None of nothing."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1] if values else None


def first_difference(clean: dict[int, str], chaos: dict[int, str]) -> int | None:
    """The lowest version whose weights' checks differ; None if all that both have are equal."""
    return min((version for version in clean.keys() & chaos.keys() if clean[version] != chaos[version]), default=None)


def figures(faults: Iterable[Cost]) -> list[str]:
    """What faults cost, a line for each kind and one for all."""
    every = list(faults)
    return [
        f"{'fault':<16}{'count':>6}{'noticed ms':>16}{'next version ms':>18}{'back at work ms':>18}",
        f"{'':<16}{'':>6}{'p50':>8}{'p99':>8}{'p50':>10}{'p99':>8}{'p50':>10}{'p99':>8}",
        *(_line(kind, each) for kind, each in by_kind(every).items()),
        _line("all", every),
    ]


def table(outcome: Outcome) -> list[str]:
    """The whole for people."""
    same = "equal" if outcome.equal else "DIFFERENT"
    goodput = "–" if outcome.goodput is None else f"{100 * outcome.goodput:.1f}%"
    return [
        *figures(outcome.costs),
        f"digests: {same}, clean {_short(outcome.clean_digest)}, with faults {_short(outcome.chaos_digest)}",
        f"steps redone: {outcome.chaos.redone_steps}; micro-batches recomputed: "
        f"{outcome.chaos.recomputed_micro_batches}; versions while control was dead: "
        f"{outcome.versions_while_control_dead}; goodput {goodput}",
    ]


def _line(kind: str, costs: list[Cost]) -> str:
    widths = (8, 8, 10, 8, 10, 8)
    told = ["–" if value is None else f"{value:.0f}" for value in percentiles(costs).values()]
    return f"{kind:<16}{len(costs):>6}" + "".join(f"{text:>{width}}" for text, width in zip(told, widths, strict=True))


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


class Progress:
    """One line that renews itself on a terminal; elsewhere a line now and then. Faults get a line of their own."""

    def __init__(self, terminal: Terminal, steps: int) -> None:
        self._terminal = terminal
        self._steps = steps
        self._faults = 0
        self.name = ""

    def version(self, version: int) -> None:
        """A new version of the run called `name`."""
        faults = f", {self._faults} faults so far" if self.name != "clean" else ""
        text = f"{self.name}: version {version} of {self._steps}{faults}"
        if self._terminal.is_live:
            self._write(f"\r\x1b[K{text}")
        elif version % max(1, self._steps // 6) == 0:
            self._terminal.say(text)

    def fault(self, text: str) -> None:
        """A fault has struck."""
        self._faults += 1
        self.end()
        self._terminal.say(f"{self.name}: {text}")

    def end(self) -> None:
        """The line that renews itself is over."""
        if self._terminal.is_live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._terminal.people.write(text)
        self._terminal.people.flush()
