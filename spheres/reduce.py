"""The way of one tensor over all spheres: up the tree, across the top, down again.

At each level from the leaves the group's members reduce to its leader; at the top the leaders all-reduce; then each
leader hands the result to its group. What is summed are integers, so the tree's shape decides nothing but the way.

Chosen over reduce-scatter / all-reduce of shards / all-gather because groups may be unequal (a shard has no counterpart
in a smaller group), and because gloo's reduce-scatter was measured no cheaper than its all-reduce. A top-level link
carries one all-reduce of the tensor, the least possible for uncompressed sums; a lower one the tensor up and down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .groups import Groups
from .levels import LevelPlan

DTYPES = (torch.int32, torch.int64, torch.float32)

Stage = Callable[[torch.Tensor], None]


def stages_of(groups: Groups) -> dict[str, Stage]:
    """What this sphere does for a tensor, by name and in order; each blocks and raises PeerLost. Alone, nothing."""
    stages: dict[str, Stage] = {}
    for plan in reversed(groups.plans):
        name, up = ("all-reduce", groups.all_reduce) if plan.top else ("reduce", groups.reduce)
        stages[f"{name} at level {plan.level}"] = _by_its_way(groups, plan, up)
    for plan in groups.plans:
        if not plan.top:
            stages[f"broadcast at level {plan.level}"] = _by_its_way(groups, plan, groups.broadcast)
    return stages


def _by_its_way(groups: Groups, plan: LevelPlan, collective: Callable[[LevelPlan, torch.Tensor], None]) -> Stage:
    """gloo takes what lies on the CPU: where buckets travel on GPUs, and this group's can't, they go by a copy."""
    stage = partial(collective, plan)
    if groups.wires_on.type == "cpu" or groups.is_on_gpus(plan):
        return stage
    return partial(by_host, stage)


def by_host(stage: Stage, tensor: torch.Tensor) -> None:
    """`stage`, done to a copy on the CPU and brought back. Blocks for both ways; raises what `stage` raises."""
    host = tensor.cpu()
    stage(host)
    tensor.copy_(host)


def sum_over_tree(groups: Groups, tensor: torch.Tensor) -> None:
    """Overwrite `tensor` (1-D, contiguous, on the CPU; int32, int64 or float32) with the sum over all spheres.

    Never give it an accumulator: a failed collective leaves garbage in `tensor`, on every sphere. Integers wrap; the
    caller has checked that they can't. Blocks until all spheres came; raises PeerLost. All call it in the same order.
    """
    if tensor.dim() != 1 or not tensor.is_contiguous() or tensor.dtype not in DTYPES:
        raise ValueError(
            "only contiguous 1-D tensors of int32, int64 or float32 are reduced; "
            f"this one is {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    for stage in stages_of(groups).values():
        stage(tensor)
