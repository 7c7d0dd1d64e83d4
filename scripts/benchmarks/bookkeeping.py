"""Row 1: what the Trainer does in a step besides the step, against the loop that anyone would write.

The small model's step is of the size of the bookkeeping itself, so that it can be seen; the middle one's is some 20 ms.
"""

from __future__ import annotations

import statistics

from .environments import LOOPS_ELSEWHERE, python_with
from .figures import Figure, paired
from .plan import Plan, one_core
from .processes import module
from .turns import alternate

BAR_US = 60.0
BAR_PERCENT = 1.0
SMALL_STEPS = 10  # times as many steps of the small model: they are short
TURN_STEPS = 50
LEFT_OUT = 5  # at the start of a turn, while caches still hold the other side's


def measure(plan: Plan) -> list[Figure]:
    """Microseconds a step over the bare loop, and the same as a share of a longer step."""
    figures = _small(plan)
    figures.append(_middle(plan))
    return figures


def _small(plan: Plan) -> list[Figure]:
    loops = {"trainer": module("scripts.benchmarks.loops", "trainer", "small", one_core())}
    loops["bare"] = module("scripts.benchmarks.loops", "bare", "small", one_core())
    for name in LOOPS_ELSEWHERE if plan.peers else ():
        plan.tell(f"row 1: an environment with {name}")
        loops[name] = module("scripts.benchmarks.loops", name, "small", one_core(), python=python_with(name))
    length = min(TURN_STEPS, plan.steps * SMALL_STEPS)
    turns = max(1, plan.steps * SMALL_STEPS // length)
    sides: dict[str, list[float]] = {name: [] for name in loops}
    over: dict[str, list[float]] = {name: [] for name in loops}
    for run in range(plan.runs):
        folder = plan.new_folder(f"row1-small-{run}")
        told = alternate(list(loops.values()), folder, turns=turns, steps=length, warm_up=length)
        kept = min(LEFT_OUT, length - 1)
        medians = {
            name: [1e6 * statistics.median(seconds[kept:]) for seconds in each]
            for name, each in zip(loops, told, strict=True)
        }
        for name, each in medians.items():
            sides[name].append(statistics.median(each))
            over[name].append(paired(each, medians["bare"], "difference"))
        shown = ", ".join(f"{name} {sides[name][-1]:.0f} µs" for name in loops)
        plan.tell(f"row 1, run {run + 1} of {plan.runs}: {shown}")
    bare = statistics.median(sides["bare"])
    return [
        Figure(
            1,
            "bookkeeping" if name == "trainer" else f"for comparison: {name}",
            "µs a step",
            tuple(over[name]),
            bar=BAR_US if name == "trainer" else None,
            ours=statistics.median(sides[name]),
            peer=bare,
            side_unit="µs",
            peer_name="bare loop",
        )
        for name in loops
        if name != "bare"
    ]


def _middle(plan: Plan) -> Figure:
    commands = [module("scripts.benchmarks.loops", name, "middle", one_core()) for name in ("trainer", "bare")]
    ours, peer, shares = [], [], []
    for run in range(plan.runs):
        folder = plan.new_folder(f"row1-middle-{run}")
        told = alternate(commands, folder, turns=plan.steps, steps=2, warm_up=3)
        own, bare = ([seconds[-1] for seconds in each] for each in told)
        ours.append(1e3 * statistics.median(own))
        peer.append(1e3 * statistics.median(bare))
        shares.append(100 * (paired(own, bare) - 1))
        plan.tell(f"row 1, run {run + 1} of {plan.runs}: trainer {ours[-1]:.2f} ms, bare {peer[-1]:.2f} ms")
    return Figure(
        1,
        "bookkeeping, share of a longer step",
        "%",
        tuple(shares),
        bar=BAR_PERCENT,
        ours=statistics.median(ours),
        peer=statistics.median(peer),
        side_unit="ms",
        peer_name="bare loop",
    )
