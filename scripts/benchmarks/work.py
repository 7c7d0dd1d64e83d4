"""The work of rows 3 and 4, and what both sides say of it: rows of JSON, one a step.

That both did the same work is checked by their losses: they start from the same weights and see the same samples, so
the losses of the last step differ by rounding alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwatch.config import GPTConfig, RunConfig, TrainingConfig, dumps

from .figures import Figure, paired
from .plan import Plan
from .processes import Cannot

MICRO_BATCHES = 4
LEFT_OUT = 5  # first steps: an exact one is repeated, DDP settles its buckets
LOSSES_ALIKE = 0.01


@dataclass(frozen=True)
class Run:
    """One run of one side. seconds: of each step from LEFT_OUT on. link_bytes: payload over the link meanwhile.

    tries: of all those steps; more than there are steps where one was repeated.
    """

    seconds: tuple[float, ...]
    loss: float
    tries: int
    link_bytes: int = 0

    @property
    def step_ms(self) -> float:
        return 1e3 * statistics.median(self.seconds)


def config(steps: int) -> RunConfig:
    """The GPT of 4.9 M parameters, 4 micro-batches of 4 x 128 bytes a step; no evaluation, digest or log between."""
    return RunConfig(
        training=TrainingConfig(
            learning_rate=3e-4,
            warmup_steps=20,
            max_steps=LEFT_OUT + steps,
            micro_batches=MICRO_BATCHES,
            batch_size=4,
            seed=1,
            log_interval=10**6,
            eval_interval=0,
            eval_batches=1,
            save_interval=0,
            verify_interval=0,
        ),
        model=GPTConfig(layers=6, heads=8, width=256),
    )


def write_config(folder: Path, steps: int) -> Path:
    """The run's config.toml in `folder`; both sides read it."""
    file = folder / "config.toml"
    file.write_text(dumps(config(steps)), encoding="utf-8")
    return file


def read_run(files: Sequence[Path], link_bytes: int = 0) -> Run:
    """A run from its rows; of several files the seconds are the first's, the loss is the mean. Raises Cannot."""
    sides = [rows(file) for file in files]
    if not all(len(side) > LEFT_OUT for side in sides):
        raise Cannot(f"a run made {min(map(len, sides))} steps only")
    measured = sides[0][LEFT_OUT:]
    seconds = tuple(float(row["step_s"]) for row in measured)
    loss = statistics.fmean(float(side[-1]["loss"]) for side in sides)
    return Run(seconds, loss, sum(int(row.get("attempts", 1)) for row in measured), link_bytes)


def rows(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of rows; none if there is no such file yet."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def step_figure(row: int, name: str, ours: Sequence[Run], peer: Sequence[Run], bar: float) -> Figure:
    """The ratio of step times, run by run. Raises Cannot if the runs were not of the same work."""
    losses = {run.loss for run in [*ours, *peer]}
    if max(losses) - min(losses) > LOSSES_ALIKE * max(losses):
        raise Cannot(f"both sides should have come to the same loss, and it is {min(losses):.4f} to {max(losses):.4f}")
    return Figure(
        row,
        name,
        "times",
        tuple(paired([own.step_ms], [other.step_ms]) for own, other in zip(ours, peer, strict=True)),
        bar=bar,
        goal=1.0 if row == 3 else None,
        ours=statistics.median(run.step_ms for run in ours),
        peer=statistics.median(run.step_ms for run in peer),
        side_unit="ms",
        peer_name="DDP",
    )


def told(plan: Plan, row: int, run: int, ours: Run, peer: Run) -> None:
    """Progress: both step times, and how often ours had to repeat a step."""
    again = ours.tries - len(ours.seconds)
    shown = f"ours {ours.step_ms:.0f} ms a step{f' ({again} tries more)' if again else ''}, DDP {peer.step_ms:.0f} ms"
    plan.tell(f"row {row}, run {run + 1} of {plan.runs}: {shown}")
