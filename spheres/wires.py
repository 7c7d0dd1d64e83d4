"""The buckets of one generation on their way, and what carries them.

gloo gets wire buffers only: an own sum is copied just before its reduction, for a reduction that fails leaves garbage.
They lie on the CPU, whatever the sphere computes on, but for a group whose members all have a GPU of their own.
Wires belong to a generation: the next one gets fresh ones, so whoever keeps a complete sum may keep it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from control.crash import here
from lightwatch.trace import Trace

from .groups import Groups
from .pipeline import Pipeline


class Wires:
    """Of one sphere in one generation. dirty: a part of a step was handed on, and its tail has not ended well."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.dirty = False
        self._pipeline = Pipeline(groups)
        self._wires: list[Tensor] = []
        self._homes: list[torch.device] = []
        self._next = 0
        self._on_gpu = groups.wires_on.type == "cuda"

    def show(self, trace: Trace | None) -> None:
        """Where the threads show what they do."""
        self._pipeline.trace = trace

    def send(self, bucket: Tensor) -> None:
        """Let a copy of this bucket go. Never blocks, never raises."""
        here("sphere.before_reduce")
        if self._next == len(self._wires):
            self._wires.append(_wire_for(bucket, self.groups.wires_on))
            self._homes.append(bucket.device)
        wire = self._wires[self._next]
        wire.copy_(bucket)
        if self._on_gpu:  # another thread takes it from here, and a copy within a GPU is not waited for
            torch.cuda.current_stream(wire.device).synchronize()
        self.dirty = True
        self._pipeline.start(wire)
        self._next += 1

    def sums(self) -> list[Tensor]:
        """What was sent since the last time, summed over all; where the buckets lie. Blocks. Raises PeerLost."""
        self._next = 0
        return [wire.to(home) for wire, home in zip(self._pipeline.finish(), self._homes, strict=False)]

    def sum_tail(self, vector: Tensor) -> None:
        """Overwrite the tail with its sum over all. Blocks. Raises PeerLost; then the vector is as it was."""
        self.dirty = True
        self._pipeline.exchange(vector)
        self.dirty = False

    def round_trips(self) -> dict[str, float]:
        """Seconds by link."""
        return self._pipeline.round_trips()

    def close(self) -> None:
        """Drop groups, threads and wires, without waiting for gloo."""
        self._pipeline.close()
        self.groups.close()


def _wire_for(bucket: Tensor, place: torch.device) -> Tensor:
    """Pinned where it lies on the CPU and the bucket doesn't: a GPU copies into such memory several times as fast."""
    pinned = bucket.is_cuda and place.type == "cpu"
    return torch.empty(bucket.shape, dtype=bucket.dtype, device=place, pin_memory=pinned)
