"""Row 3: two spheres against DDP with two processes, over loopback."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from .figures import Figure
from .machine import cores
from .plan import Plan
from .processes import Cannot, module, started, wait
from .work import Run, read_run, step_figure, told, write_config

BAR = 1.05
SPHERES = 2
PATIENCE_S = 900.0


def measure(plan: Plan) -> list[Figure]:
    """The ratio of step times, as each side tells them itself."""
    if cores() < SPHERES:
        raise Cannot(f"it takes {SPHERES} cores, here is {cores()}")
    ours, peer = [], []
    for run in range(plan.runs):
        ours.append(_tree(plan.new_folder(f"row3-tree-{run}"), plan.steps))
        peer.append(_ddp(plan.new_folder(f"row3-ddp-{run}"), plan.steps))
        told(plan, 3, run, ours[-1], peer[-1])
    return [step_figure(3, "2 spheres against DDP", ours, peer, BAR)]


def _tree(folder: Path, steps: int) -> Run:
    file, out, log = write_config(folder, steps), folder / "run", folder / "tree.log"
    command = ["train", "--tree", SPHERES, "--config", file, "--out", out, "--quiet"]
    with started(module("lightwatch", *command), log) as process:
        wait([process], log, PATIENCE_S)
    return read_run([out / "metrics.jsonl"])


def _ddp(folder: Path, steps: int) -> Run:
    file, log = write_config(folder, steps), folder / "ddp.log"
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(started(module("scripts.benchmarks.ddp", file, rank, SPHERES, folder), log))
            for rank in range(SPHERES)
        ]
        wait(ranks, log, PATIENCE_S)
    return read_run([folder / f"rows-{rank}.jsonl" for rank in range(SPHERES)])
