"""NCCL, for buckets in a group whose members each have a GPU of their own. No GPU has run a line of this yet.

It is given int32 and float32 sums only, and integers have one sum in whatever order NCCL adds. The tail stays with
gloo. What differs from gloo, and is seen to here:

1. A collective is a kernel that waits on the GPU: no socket breaks and nothing raises. So its end is looked for, and
   `Groups` breaks it off by the same word as gloo's (`trouble`); `abort` then does what its name says.
2. Left to itself it ends a process whose collective failed, and looks for others' trouble in the store, which here is
   control's: both are turned off, for a lost peer is control's business.
3. The first collective connects, so it is made where the group is built: no step waits for control's store.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import Store, Work

SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}
BUILD_S = 20.0
"""What connecting may take longer than with gloo: it looks at the machine's links first. By hearsay, not measured."""
LOOK_S = 0.0002
"""How often it is looked whether a collective has ended."""


def build(store: Store, rank: int, size: int, timeout: timedelta, device: torch.device) -> Any:
    """A connected ProcessGroupNCCL. Blocks until all came; raises RuntimeError."""
    from torch._C._distributed_c10d import ProcessGroupNCCL  # in builds for CUDA only

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    options = ProcessGroupNCCL.Options()
    options._timeout = timeout
    group: Any = ProcessGroupNCCL(store, rank, size, options)
    word = torch.ones(1, dtype=torch.int32, device=device)
    work = group.allreduce([word])
    if not ends_within(work, timeout.total_seconds()):
        raise RuntimeError(f"NCCL did not connect within {timeout.total_seconds():g} s")
    if int(word) != size:
        raise RuntimeError(f"NCCL added {size} ones to {int(word)}")
    return group


def ends_within(work: Work, seconds: float) -> bool:
    """Whether it has ended, on the GPU too, after so long at most. Raises RuntimeError if it failed."""
    until_s = time.monotonic() + seconds
    while not work.is_completed():
        if time.monotonic() > until_s:
            return False
        time.sleep(LOOK_S)
    if not work.is_success():
        raise RuntimeError("NCCL reports an error")
    work.wait()  # it has ended: this lets go of what it held
    return True
