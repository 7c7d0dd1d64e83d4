"""Row 8: on a GPU, what exact sums and deterministic algorithms cost, and what bf16 gains. No GPU has run it yet."""

from __future__ import annotations

import statistics

import torch

from .figures import Figure, paired
from .plan import Plan
from .processes import Cannot, module
from .turns import alternate

WARM_UP_STEPS = 5
PAIRS = (
    ("exact sums against float sums on a GPU", "exact-gpu", "trainer-gpu", "float"),
    ("the Trainer, deterministic, against a bare loop on a GPU", "trainer-gpu", "bare-gpu", "bare"),
    ("bf16 autocast against float32 on a GPU", "bf16-gpu", "trainer-gpu", "float32"),
)
"""What, by which loop, against which, and what that is called."""


def measure(plan: Plan) -> list[Figure]:
    """Ratios of step times, one step of each side in turn. Raises Cannot where torch sees no GPU."""
    if not torch.cuda.is_available():
        raise Cannot("no GPU here: torch.cuda.is_available() says no")
    return [_figure(plan, *pair) for pair in PAIRS]


def _figure(plan: Plan, name: str, ours: str, peer: str, peer_name: str) -> Figure:
    commands = [module("scripts.benchmarks.loops", loop, "large", -1) for loop in (ours, peer)]
    sides: list[list[float]] = [[], []]
    ratios = []
    for run in range(plan.runs):
        folder = plan.new_folder(f"row8-{ours}-{peer}-{run}")
        told = alternate(commands, folder, turns=plan.steps, steps=1, warm_up=WARM_UP_STEPS)
        seconds = [[turn[0] for turn in side] for side in told]
        for side, each in zip(sides, seconds, strict=True):
            side.append(1e3 * statistics.median(each))
        ratios.append(paired(seconds[0], seconds[1]))
        plan.tell(f"row 9, run {run + 1} of {plan.runs}: {ours} {sides[0][-1]:.1f} ms, {peer} {sides[1][-1]:.1f} ms")
    return Figure(
        9,
        name,
        "times",
        tuple(ratios),
        ours=statistics.median(sides[0]),
        peer=statistics.median(sides[1]),
        side_unit="ms",
        peer_name=peer_name,
    )
