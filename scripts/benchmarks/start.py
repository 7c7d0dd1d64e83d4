"""Row 7: how long it takes until something is there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .figures import Figure
from .plan import Plan
from .processes import Cannot, environment, last_line, module, started
from .work import rows

HELP_S, CONTROL_S, FIRST_STEP_S = 0.3, 0.5, 10.0
SPHERES = 4
LOOK_S = 0.005
PATIENCE_S = 120.0


def measure(plan: Plan) -> list[Figure]:
    """Seconds to help, to a control process that listens, and to version 1 of the main job on four spheres."""
    parts: list[tuple[str, Callable[[Path], float], float]] = [
        ("lightwatch --help", _help, HELP_S),
        ("control ready", _control, CONTROL_S),
        (f"train with {SPHERES} spheres, to its first step", _first_step, FIRST_STEP_S),
    ]
    found: list[list[float]] = [[] for _ in parts]
    for run in range(plan.runs):
        for number, (_, part, _) in enumerate(parts):
            found[number].append(part(plan.new_folder(f"row7-{number}-{run}")))
        shown = ", ".join(f"{seconds[-1]:.2f} s" for seconds in found)
        plan.tell(f"row 7, run {run + 1} of {plan.runs}: help, control, first step: {shown}")
    return [Figure(7, name, "s", tuple(seconds), bar=bar) for (name, _, bar), seconds in zip(parts, found, strict=True)]


def _help(folder: Path) -> float:
    began_s = time.perf_counter()
    subprocess.run(module("lightwatch", "--help"), check=True, capture_output=True, cwd=folder, env=environment())
    return time.perf_counter() - began_s


def _control(folder: Path) -> float:
    from control.process import ControlProcess

    began_s = time.perf_counter()
    with ControlProcess(folder, run_id="bench", tree=str(SPHERES)):
        return time.perf_counter() - began_s


def _first_step(folder: Path) -> float:
    """Until the row of version 1 is written; the run is then ended at once."""
    out, log = folder / "run", folder / "train.log"
    began_s = time.perf_counter()
    with started(module("lightwatch", "train", "--tree", SPHERES, "--out", out, "--quiet"), log) as process:
        while not rows(out / "metrics.jsonl"):
            if process.poll() is not None or time.perf_counter() - began_s > PATIENCE_S:
                raise Cannot(f"lightwatch train made no step: {last_line(log)}")
            time.sleep(LOOK_S)
        return time.perf_counter() - began_s
