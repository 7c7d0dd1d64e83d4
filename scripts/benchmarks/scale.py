"""Row 6: control with many simulated spheres, each of which reports once a second and beats once a second."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from .figures import Figure
from .plan import Plan
from .processes import Cannot, last_line, module, started
from .scale_side import SILENCE_S

TREES = {10: "10", 100: "10x10", 1_000: "10x10x10", 5_000: "10x10x10x5"}
BARRED = 1_000
CPU_PERCENT, ORDER_S, GENERATION_S = 15.0, 1.0, 1.0
SECONDS = 10.0
ORDERS = 10


def measure(plan: Plan) -> list[Figure]:
    """Processor time and memory of the real control, what an order takes, and a new generation."""
    figures: list[Figure] = []
    for count, tree in TREES.items():
        told = []
        for run in range(plan.runs):
            told.append(_run(plan.new_folder(f"row6-{count}-{run}"), tree))
            shown = f"{told[-1]['cpu_percent']:.1f}% of a core"
            plan.tell(f"row 6, {count} spheres, run {run + 1} of {plan.runs}: control {shown}")
        figures += figures_of(count, told)
    return figures


def figures_of(count: int, told: list[dict[str, Any]]) -> list[Figure]:
    """Bars hold for BARRED spheres alone. An order's figure is its run's slowest: of so few that is the p99."""
    barred = count == BARRED
    parts: list[tuple[str, str, list[float], float | None]] = [
        ("control", "% of a core", [each["cpu_percent"] for each in told], CPU_PERCENT),
        ("control's memory", "MB", [each["memory_mb"] for each in told], None),
        ("all come to all begun", "s", [each["founded_s"] for each in told], None),
        ("order to all acknowledged, median", "s", [statistics.median(each["order_s"]) for each in told], None),
        ("order to all acknowledged, slowest", "s", [max(each["order_s"]) for each in told], ORDER_S),
        ("generation after 1 loss that peers notice", "s", [each["witnessed_s"] for each in told], GENERATION_S),
        ("generation after 1 loss that nobody notices", "s", [each["unwitnessed_s"] for each in told], None),
        ("generation after a tenth is lost", "s", [each["tenth_s"] for each in told], None),
    ]
    return [
        Figure(6, f"{count} spheres: {name}", unit, tuple(runs), bar=bar if barred else None)
        for name, unit, runs, bar in parts
    ]


def _run(folder: Path, tree: str) -> dict[str, Any]:
    from control.process import ControlProcess

    log = folder / "crowd.log"
    with ControlProcess(folder, run_id="bench", tree=tree, silence_s=SILENCE_S) as control:
        words = (control.address, control.pid, tree, SECONDS, ORDERS)
        with started(module("scripts.benchmarks.scale_side", *words), log, reports=True) as side:
            assert side.stdout is not None, "it is a pipe"
            line = side.stdout.read()
            if side.wait() or not line:
                raise Cannot(f"tree {tree}: {last_line(log)}")
            told: dict[str, Any] = json.loads(line)
            return told
