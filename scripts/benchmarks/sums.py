"""Row 2: exact sums against float sums in one process, everything else the same."""

from __future__ import annotations

import statistics

from .figures import Figure, paired
from .plan import Plan, one_core
from .processes import module
from .turns import alternate

BAR = 1.03
WARM_UP_STEPS = 3  # an exact first step takes three tries


def measure(plan: Plan) -> list[Figure]:
    """The ratio of step times, one step of each in turn."""
    commands = [module("scripts.benchmarks.loops", name, "large", one_core()) for name in ("exact", "trainer")]
    ours, peer, ratios = [], [], []
    for run in range(plan.runs):
        told = alternate(
            commands, plan.new_folder(f"row2-{run}"), turns=plan.steps, steps=1, warm_up=min(plan.steps, WARM_UP_STEPS)
        )
        exact, floats = ([seconds[0] for seconds in each] for each in told)
        ours.append(1e3 * statistics.median(exact))
        peer.append(1e3 * statistics.median(floats))
        ratios.append(paired(exact, floats))
        plan.tell(f"row 2, run {run + 1} of {plan.runs}: exact {ours[-1]:.0f} ms, float {peer[-1]:.0f} ms")
    return [
        Figure(
            2,
            "exact sums against float sums",
            "times",
            tuple(ratios),
            bar=BAR,
            ours=statistics.median(ours),
            peer=statistics.median(peer),
            side_unit="ms",
            peer_name="float",
        )
    ]
