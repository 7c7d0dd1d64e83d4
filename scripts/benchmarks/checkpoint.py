"""Row 5: how long a save holds the training up, and how fast it writes."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import Figure, paired
from .plan import Plan
from .processes import Cannot, module, started, wait

PAUSE_BAR_PERCENT = 5.0
RATE_BAR_PERCENT = 70.0
WRITES = 5
KINDS = 3  # of steps, by turns
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Written:
    """One state written again and again. size: bytes; the rest: seconds, turn by turn."""

    size: int
    blocking: tuple[float, ...]
    torch_save: tuple[float, ...]
    dd: tuple[float, ...]

    @property
    def title(self) -> str:
        return f"{self.size / 1e6:.0f} MB"

    def rate(self, seconds: Sequence[float]) -> float:
        """In MB/s."""
        return self.size / 1e6 / statistics.median(seconds)


@dataclass(frozen=True)
class Run:
    """One run: seconds of steps with a save, without one, with DCP's, and of one copy of the state; turn by turn."""

    save: tuple[float, ...]
    plain: tuple[float, ...]
    dcp: tuple[float, ...]
    copy: tuple[float, ...]
    small: Written
    large: Written

    @property
    def beyond_percent(self) -> float:
        """What a save takes from the training beyond one copy of the state, as a part of a step."""
        turns = zip(self.save, self.plain, self.copy, strict=True)
        return 100 * statistics.median((save - plain - copy) / plain for save, plain, copy in turns)

    def pause_ms(self, steps: Sequence[float]) -> float:
        """By how much these steps are longer than those without a save beside them."""
        return 1e3 * paired(steps, self.plain, "difference")


def measure(plan: Plan) -> list[Figure]:
    """The pause of a save, beside other ways to save; the rate of its write against that of dd."""
    if shutil.which("dd") is None:
        raise Cannot("there is no `dd` here")
    runs = []
    for run in range(plan.runs):
        runs.append(_run(plan.new_folder(f"row5-{run}"), plan.steps))
        one = runs[-1]
        plan.tell(
            f"row 5, run {run + 1} of {plan.runs}: step {_ms(one.plain):.0f} ms, pause {one.pause_ms(one.save):.1f} "
            f"ms, copy {_ms(one.copy):.1f} ms, DCP {one.pause_ms(one.dcp):.1f} ms; {one.large.title} at "
            f"{one.large.rate(one.large.blocking):.0f} MB/s, dd {one.large.rate(one.large.dd):.0f} MB/s"
        )
    return figures_of(runs)


def figures_of(runs: Sequence[Run]) -> list[Figure]:
    """Each figure of a run is a median over its turns."""
    large, small = runs[0].large.title, runs[0].small.title
    return [
        Figure(
            5,
            "pause of a save beyond one copy",
            "% of a step",
            tuple(run.beyond_percent for run in runs),
            bar=PAUSE_BAR_PERCENT,
            ours=statistics.median(run.pause_ms(run.save) for run in runs),
            peer=statistics.median(_ms(run.copy) for run in runs),
            side_unit="ms",
            peer_name="one copy",
        ),
        _pause("a save", runs, lambda run: run.save),
        _pause("DCP async_save", runs, lambda run: run.dcp),
        _wait("a save that is waited for", runs, lambda run: run.small.blocking),
        _wait("torch.save and fsync", runs, lambda run: run.small.torch_save),
        _rate(f"write rate, {large}", runs, lambda run: (run.large, run.large.blocking), RATE_BAR_PERCENT),
        _rate(f"for comparison: {small}", runs, lambda run: (run.small, run.small.blocking)),
        _rate(f"for comparison: torch.save, {large}", runs, lambda run: (run.large, run.large.torch_save)),
    ]


def read_run(told: dict[str, Any]) -> Run:
    """What the process that saves has told."""
    steps = {kind: tuple(seconds) for kind, seconds in told["steps"].items()}
    small, large = (
        Written(told[size]["bytes"], **{way: tuple(each) for way, each in told[size]["seconds"].items()})
        for size in ("small", "large")
    )
    return Run(**steps, copy=tuple(told["copies"]["save"]), small=small, large=large)


def _run(folder: Path, steps: int) -> Run:
    log = folder / "saves.log"
    turns = max(1, steps // KINDS)
    with started(module("scripts.benchmarks.saves", turns, min(turns, WRITES), folder), log) as process:
        wait([process], log, PATIENCE_S)
    run = read_run(json.loads((folder / "saves.json").read_text(encoding="utf-8")))
    shutil.rmtree(folder)
    return run


def _ms(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds)


def _pause(name: str, runs: Sequence[Run], steps: Callable[[Run], Sequence[float]]) -> Figure:
    return Figure(
        5,
        f"for comparison: pause of {name}",
        "ms",
        tuple(run.pause_ms(steps(run)) for run in runs),
        ours=statistics.median(_ms(steps(run)) for run in runs),
        peer=statistics.median(_ms(run.plain) for run in runs),
        side_unit="ms",
        peer_name="without",
    )


def _wait(name: str, runs: Sequence[Run], seconds: Callable[[Run], Sequence[float]]) -> Figure:
    return Figure(5, f"for comparison: pause of {name}", "ms", tuple(_ms(seconds(run)) for run in runs))


def _rate(
    name: str, runs: Sequence[Run], side: Callable[[Run], tuple[Written, Sequence[float]]], bar: float | None = None
) -> Figure:
    sides = [side(run) for run in runs]
    return Figure(
        5,
        name,
        "% of dd",
        tuple(100 * paired(written.dd, seconds) for written, seconds in sides),
        bar=bar,
        least=True,
        ours=statistics.median(written.rate(seconds) for written, seconds in sides),
        peer=statistics.median(written.rate(written.dd) for written, _ in sides),
        side_unit="MB/s",
        peer_name="dd",
    )
