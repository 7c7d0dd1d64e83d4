"""The run as a client sees it: plain values, made by `report`, sent in an Answer."""

from __future__ import annotations

import msgspec

from .terms import Finite, Whole


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What one sphere handed to the collectives of one level; summed over spheres it is what that level carried.

    up: towards the root, down: away from it, payload bytes of tails and repeated steps too.
    least: what the finished versions needed at the very least, uncompressed, both directions together.
    states: bytes of states that spheres fetched from peers through that node, booked by those who fetched.
    seconds: spent in those collectives, waiting for peers too.
    """

    level: Whole
    """Depth of the node whose children add up; 0 is the root."""
    node: str = ""
    up: Whole = 0
    down: Whole = 0
    least: Whole = 0
    states: Whole = 0
    seconds: Finite = 0.0

    @property
    def ratio(self) -> float | None:
        """What was handed over, as a multiple of the least; None where nothing was needed."""
        return (self.up + self.down) / self.least if self.least else None


class Throughput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Work by the seconds of whole steps, waiting for others too: so those of all spheres add up to the run's."""

    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    micro_batches_per_s: float | None = None


class Totals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What rows add up to: those of one sphere since it came, or of many, merged.

    versions, retries: reports of finished steps, and attempts that were repeated; of all spheres that reported them.
    micro_batches, samples, tokens: computed, repeated ones too; tokens are targets (samples, where each has one).
    seconds: by what they went to, `step` for the whole; `save`, outside steps, on the sphere that wrote the model.
    held_up_s: what others waited for this sphere, summed over them.
    round_trips: links, "a – b" -> seconds, the newest that was told; where both ends tell, the longer.
    """

    versions: int = 0
    micro_batches: int = 0
    samples: int = 0
    tokens: int = 0
    retries: int = 0
    seconds: dict[str, float] = {}
    held_up_s: float = 0.0
    traffic: list[Traffic] = []
    round_trips: dict[str, float] = {}

    @property
    def throughput(self) -> Throughput:
        """Over everything counted here. Of many spheres: that of the mean one."""
        step_s = self.seconds.get("step", 0.0)
        if step_s <= 0:
            return Throughput()
        return Throughput(
            samples_per_s=self.samples / step_s,
            tokens_per_s=self.tokens / step_s,
            micro_batches_per_s=self.micro_batches / step_s,
        )

    @property
    def seconds_per_version(self) -> dict[str, float]:
        """The mean over versions and spheres."""
        steps = {name: seconds for name, seconds in self.seconds.items() if name != "save"}
        return {name: seconds / self.versions for name, seconds in steps.items()} if self.versions else {}

    @property
    def sync_share(self) -> float | None:
        """The part of step time spent waiting for others and summing; None before the first step."""
        step_s = self.seconds.get("step", 0.0)
        return (self.seconds.get("wait", 0.0) + self.seconds.get("reduce", 0.0)) / step_s if step_s > 0 else None


class Waited(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sphere that the others wait for: so long in a typical one of the newest steps, and what part of it that is."""

    path: str
    wait_s: float
    share: float


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection between two nodes' leaders, by its name "a – b"."""

    name: str
    round_trip_s: float


class Best(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lowest value so far, and the version that reported it."""

    value: float
    version: int


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How training goes. clip_ratio: of the newest version, 1 where it was not clipped. skipped: versions so far.

    best: the lowest training loss, best_eval: the lowest evaluation loss; eval_loss: the newest there is.
    """

    best: Best | None = None
    eval_loss: float | None = None
    best_eval: Best | None = None
    clip_ratio: float | None = None
    skipped: int = 0
    trouble: str = ""
    """Why the newest skipped version was."""


class SphereStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sphere as a client sees it. seconds: of its newest version.

    throughput, sync_share: over its newest 20 versions. totals: since it came; levels and links are in the run's alone,
    here only the bytes that this sphere handed over, towards the root and away from it.
    """

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
    throughput: Throughput = Throughput()
    sync_share: float | None = None
    totals: Totals = Totals()
    up_bytes: int = 0
    down_bytes: int = 0
    in_force: int = 0
    """The newest order that it has said to obey."""


class EpochStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The current epoch: finished micro-batches of all, the mean loss over its targets so far, seconds in its steps."""

    number: int
    micro_batches: int
    micro_batches_in_all: int
    loss: float | None
    duration_s: float


class Status(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run as a whole. state: ControlStatus' value; outcome: "" until the end, then as in End.status.

    throughput, updates_per_s: over the newest 20 versions, by the seconds of their steps: a pause is no slowness.
    totals: of all spheres together since each came; recent: over the newest 20 versions of each.
    slowest, slow_link: named only where it costs a notable part of a step.
    """

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
    progress: Progress = Progress()
    throughput: Throughput = Throughput()
    updates_per_s: float | None = None
    totals: Totals = Totals()
    recent: Totals = Totals()
    slowest: Waited | None = None
    slow_link: Link | None = None
    checkpoint: str = ""
    """The folder of the newest whole checkpoint that control knows of."""
    checkpoint_version: int | None = None
    alarm: str = ""
    """What somebody should look at; empty if all is well."""


class SphereHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one sphere is. state: computing; waiting, for others or to begin; stuck, which computes and does not move;
    lost: not connected, thrown out, or not heard for silence_s; left: as it was asked to. cpu_s: of its process so far.
    """

    path: str
    state: str
    host: str = ""
    here: bool = False
    """Its connection stands, and it was neither refused nor thrown out nor asked to leave."""
    sphere: int = 0
    phase: str = ""
    version: int = 0
    cpu_s: float = 0.0
    rss_bytes: int = 0
    heard_s: float | None = None
    """Seconds since control last heard of it; None: it never did."""
    still_s: float = 0.0
    """Seconds for which it has said the same."""
    why: str = ""
    """Where it was refused or thrown out, or has failed: the reason."""


class Health(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the run is: its state, what somebody should look at, and each expected sphere in tree order."""

    state: str
    alarm: str
    silence_s: float
    spheres: list[SphereHealth] = []

    def count(self, state: str) -> int:
        """How many spheres are so."""
        return sum(sphere.state == state for sphere in self.spheres)


class NodeStats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the spheres at and under one node of the tree have done, merged. path: "" is the root. spheres: how many.

    What was done at a path goes on being counted when its sphere has a successor.
    """

    path: str
    spheres: int
    totals: Totals

    @property
    def busy_s(self) -> float:
        """Seconds of computing: data, forward and backward, update, evaluation."""
        return sum(self.totals.seconds.get(name, 0.0) for name in ("data", "compute", "update", "eval"))

    @property
    def wait_s(self) -> float:
        """Seconds in which it had to wait for slower spheres."""
        return self.totals.seconds.get("wait", 0.0)

    @property
    def sync_s(self) -> float:
        """Seconds of summing with others."""
        return self.totals.seconds.get("reduce", 0.0)

    @property
    def bytes(self) -> int:
        """Handed to the collectives of all levels, both ways."""
        return sum(level.up + level.down for level in self.totals.traffic)


class SavedCheckpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that was whole when it was made. on_the_way: the run went on from it; False: a restore left it."""

    name: str
    version: int
    lineage: int
    digest: str
    bytes: int
    on_the_way: bool = True
