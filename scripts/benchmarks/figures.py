"""What a figure is: a median over runs, its spread, its bar, and the table of all. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ENOUGH_RUNS = 5
ENOUGH_STEPS = 30


@dataclass(frozen=True)
class Figure:
    """One thing measured. runs: a value for each run, each of ours against the peer's run beside it.

    ours, peer: medians in `side_unit`, what the value was made of; None where there is no such side.
    bar: the most that `value` may be, or the least if `least`; None: shown for comparison. goal: what it shall come to.
    """

    row: int
    name: str
    unit: str
    runs: tuple[float, ...]
    bar: float | None = None
    goal: float | None = None
    ours: float | None = None
    peer: float | None = None
    side_unit: str = ""
    peer_name: str = ""
    least: bool = False

    @property
    def value(self) -> float:
        """The median over the runs: what the bar is held against."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest run."""
        return min(self.runs), max(self.runs)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps to the bar; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.least else self.value <= self.bar


@dataclass(frozen=True)
class NotRun:
    """A row that could not be measured here, and why."""

    row: int
    why: str


def paired(ours: Sequence[float], peer: Sequence[float], kind: str = "ratio") -> float:
    """The median over pairs measured side by side: of ours / peer, or with kind "difference" of ours - peer.

    Pairs, since what a noisy machine does to one it does to its neighbour too.
    """
    both = list(zip(ours, peer, strict=True))
    return statistics.median(a - b if kind == "difference" else a / b for a, b in both)


def as_json(figure: Figure) -> dict[str, Any]:
    """The figure's fields and what follows from them, for bench.json."""
    return {**asdict(figure), "value": figure.value, "spread": figure.spread, "met": figure.met}


def table(figures: Sequence[Figure], not_run: Sequence[NotRun]) -> str:
    """All figures in columns, rows in order; below them what was not run, and why."""
    lines: list[tuple[str, ...]] = [("row", "what", "ours", "peer", "figure", "spread", "bar", "met")]
    lines += [_cells(figure) for figure in sorted(figures, key=lambda each: each.row)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*shown, *(f"{each.row}    not run: {each.why}" for each in not_run)])


def _cells(figure: Figure) -> tuple[str, ...]:
    low, high = figure.spread
    return (
        str(figure.row),
        figure.name,
        _side(figure.ours, figure.side_unit),
        _side(figure.peer, " ".join(filter(None, [figure.side_unit, figure.peer_name]))),
        f"{number(figure.value)} {figure.unit}".rstrip(),
        f"{number(low)} to {number(high)}",
        _bar(figure),
        {True: "yes", False: "NO", None: ""}[figure.met],
    )


def _bar(figure: Figure) -> str:
    if figure.bar is None:
        return ""
    return f"{'>=' if figure.least else '<='} {figure.bar:g}" + (f" ({figure.goal:.2f})" if figure.goal else "")


def _side(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}".rstrip()


def number(value: float) -> str:
    """Three or four digits that mean something: a bar at 1.03 needs the third."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
