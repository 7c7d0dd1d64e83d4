"""The run as a client sees it: plain values, made by `report`, sent in an Answer."""

from __future__ import annotations

import msgspec


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sphere handed to the collectives of one level; summed over spheres it is what that level carried.

    up: towards the root, down: away from it, payload bytes of tails, repeated steps and shared states too.
    least: what the finished versions needed at the very least, uncompressed, both directions together.
    seconds: spent in those collectives, waiting for peers too.
    """

    level: int
    """Depth of the node whose children add up; 0 is the root."""
    node: str = ""
    up: int = 0
    down: int = 0
    least: int = 0
    seconds: float = 0.0


class SphereStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sphere as a client sees it. seconds: of its newest version."""

    sphere: int
    path: str
    pid: int
    host: str
    phase: str
    version: int
    units_done: int
    units_dealt: int
    silent_s: float
    rss_bytes: int = 0
    cpu_s: float = 0.0
    seconds: dict[str, float] = {}


class EpochStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The current epoch: finished micro-batches of all, the mean loss over its targets so far, seconds in its steps."""

    number: int
    micro_batches: int
    micro_batches_in_all: int
    loss: float | None
    duration_s: float


class Status(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run as a whole. state: ControlStatus' value; outcome: "" until the end, then as in End.status."""

    run_id: str
    state: str
    tree: str
    generation: tuple[int, int]
    version: int
    max_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    eta_s: float | None = None
    order: int = 0
    in_force: int = 0
    reason: str = ""
    epoch: EpochStatus | None = None
    spheres: list[SphereStatus] = []
    outcome: str = ""
