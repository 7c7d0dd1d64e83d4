"""Every message that control, spheres and clients exchange, one frozen class each.

Laws
  1. A message is a value: keyword-only, typed, checked on decode; an unknown tag or a wrong type is refused whole.
  2. Messages of spheres carry the generation they speak for, (incarnation of control, number); what speaks for an
     older one is stale and is dropped before it is looked at.
  3. Facts are levels, not events: a heartbeat repeats what is true (phase, position, `failed_in`, the newest order
     heard), so a lost message heals with the next one.
  4. New fields get defaults; a field's meaning is never reused.

Durations are in seconds and end in `_s`; no instant ever crosses machines, but a doctor's (checkup.py), to be compared.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from .checkup import CheckUp
from .dials import Dial as Dial
from .dials import Dialed as Dialed
from .entrance import Brief, Enrol
from .status import Health, NodeStats, SavedCheckpoint, Status, Traffic
from .store import StoreAdd as StoreAdd
from .store import StoreDelete as StoreDelete
from .store import StoreGet as StoreGet
from .store import StoreReply as StoreReply
from .store import StoreSet as StoreSet
from .terms import NO_GENERATION as NO_GENERATION
from .terms import ORDERS_MOST as ORDERS_MOST
from .terms import Finite, Whole, Word
from .terms import Generation as Generation
from .terms import How as How
from .terms import Member as Member
from .terms import Memory as Memory
from .terms import Part as Part
from .terms import Phase as Phase
from .terms import Position as Position
from .terms import Record as Record
from .terms import SaveState as SaveState
from .terms import Stored as Stored
from .terms import Wanted as Wanted
from .terms import without_paces as without_paces


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, gc=False):
    """What every message shares: the class name is the tag on the wire.

    gc=False, here and where there are many of a value: frozen ones make no cycles, and a collector that looks through
    those of thousands of spheres takes an eighth of control's time.
    """


# ---------------------------------------------------------------- spheres to control
class Hello(Message, frozen=True, kw_only=True):
    """I am here. Sent first on a connection, before torch work; control answers Welcome or Refused."""

    run_id: Word
    path: Annotated[str, msgspec.Meta(max_length=2_048)]
    pid: int
    host: Word
    address: Word = "127.0.0.1"
    sphere: int = 0
    """0: give me an id. Else: I am this sphere, come back after a broken connection."""
    former: int = 0
    """Process id of the sphere that was at this path on this host before: its supervisor has seen it dead."""
    port: int = 0
    incarnation: int = 0
    """The highest of a control that I have heard of."""
    memory: Memory | None = None
    nonce: Word = ""
    """Drawn once by this process: who comes back over another connection and is the same knows it."""
    larder_key: Word = ""
    stack: Word = ""
    """Which network stack this process is on: equal for those who share one. Empty: it could reach everybody."""


class Proof(Message, frozen=True, kw_only=True):
    """My fingerprint and probe: equal to everybody's, or I am refused by the field that differs.

    fingerprint: field name -> value, in the order in which a difference should be named.
    micro_batches: of a step; max_steps: the version at which the run ends. Equal on all, by the fingerprint.
    """

    fingerprint: dict[str, str]
    micro_batches: int
    max_steps: int
    steps_per_epoch: int = 0


class Beat(Message, frozen=True, kw_only=True):
    """The heartbeat: what is true of me now."""

    generation: Generation
    number: int
    phase: Phase
    position: Position
    units_done: int = 0
    units_dealt: int = 0
    closing: bool = False
    """What was dealt last is of a tail without a step: this sphere's script is at its end, or closed its trainer."""
    failed_in: Generation = NO_GENERATION
    seen: int = 0
    """The newest order number heard, without a gap."""
    in_force: int = 0
    incarnation: int = 0
    """The highest of a control that I have heard of."""
    accuses: int = 0
    """The sphere whose part made the tail of generation `failed_in` unsound; 0: nobody in particular."""
    unreachable: list[int] = []
    """Members of `failed_in` whose larder did not answer when that generation broke."""
    leaving: bool = False
    """I was asked to leave: deal me nothing, and tell me when I may go."""
    rss_bytes: int = 0
    cpu_s: float = 0.0


class Row(Message, frozen=True, kw_only=True):
    """Version `version` exists; its update used these numbers. The same from every sphere but for the seconds.

    check: wrapping int64 sum over the weights' bits; the next tail finds it equal on all, or is not taken.
    digest: sha256 where it was taken (verify_interval, v0, the end), else None.
    """

    generation: Generation
    version: Whole
    lineage: Whole = 0
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    weight: Whole = 0
    samples: Whole = 0
    attempts: Whole = 1
    skipped: bool = False
    in_force: Whole = 0
    """The newest order in force from the next step on."""
    check: int | None = None
    digest: str | None = None
    epoch: Whole = 0
    eval_loss: float | None = None
    suspect: str | None = None
    """A flag that a repetition did not confirm: who computed it, in words."""
    suspects: list[int] = []
    """The same as spheres: control throws them out."""
    trouble: str | None = None
    """Why the step was skipped, in a sentence."""
    clip_ratio: float | None = None
    """The factor that clipping put on the mean gradient; 1: not clipped."""
    slowest: str | None = None
    """The path of the sphere that finished its own micro-batches last: the others' `wait` was for it."""
    seconds: dict[Word, Finite] = {}
    """This sphere's own: data, compute, wait, reduce, update, eval, and step for the whole."""
    own_units: Whole = 0
    """Training micro-batches that this sphere computed for this version, repeated ones too."""
    own_samples: Whole = 0
    own_weight: Whole = 0
    traffic: list[Traffic] = []
    """From the root level down, summed since this sphere came: only the newest row counts."""
    round_trips: dict[str, Finite] = {}
    """Links this sphere has to other nodes' leaders, "a – b" -> seconds: medians over the newest steps."""


class Ready(Message, frozen=True, kw_only=True):
    """Frozen, and this is what I hold. Nothing is added to it until Go."""

    generation: Generation
    position: Position
    holds_state: bool
    """False for one that comes new to a run, whatever it has built: it never founds a state once there is one."""
    has_v0: bool = False
    """The checkpoint of last resort can be read here."""
    digest: str | None = None
    """Of the weights at `position`; None where it was not taken."""
    done: list[int] = []
    """Indices whose micro-batches my sums contain."""
    has_sums: bool = False
    in_force: int = 0
    record: Record | None = None
    stored: list[Stored] = []
    """Checkpoints that can be read here, the newest first, if I hold no state; the one to be restored, if View says."""


class Saving(Message, frozen=True, kw_only=True):
    """How far the newest save has come here. Said at each change, by its writers alone.

    generation: in which it began; with `version` the save's name. writers: in the order of their parts; the first
    seals. folder: its name within the folder of all checkpoints. saves: orders for checkpoints that were in force then.
    digest: of the weights, with SEALED. why: with FAILED.
    """

    generation: Generation
    lineage: Whole
    version: Whole
    folder: Word
    writers: list[int]
    state: SaveState
    saves: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    part: Part | None = None
    digest: str = ""
    manifest_sha256: str = ""
    why: str = ""


class Closed(Message, frozen=True, kw_only=True):
    """The last version had its tail without a step: agreed by all. I stay until control says End."""

    generation: Generation
    version: Whole
    digest: str
    state_digest: str = ""
    eval_loss: float | None = None
    eval_weight: Whole = 0
    traffic: list[Traffic] = []
    micro_batches: Whole = 0
    """Computed by this sphere, repeated ones too."""
    busy_s: Finite = 0.0
    save_s: Finite = 0.0
    """Writing the model, on the sphere that does."""
    reason: str = "completed"
    """completed or stopped."""


class Failed(Message, frozen=True, kw_only=True):
    """I can't go on and it is not a peer's fault: bad data, a forward that raised, NaN under policy stop, a full disk.

    text: one sentence for the user. usage: true if the user's input is to blame (exit code 2, else 1).
    sick: my memory can't be trusted; I leave, the run goes on without me, and my supervisor starts me anew.
    """

    text: str
    usage: bool = False
    sick: bool = False
    detail: str = ""


# ---------------------------------------------------------------- control to spheres
class Welcome(Message, frozen=True, kw_only=True):
    """You are sphere `sphere` of this run."""

    sphere: int
    incarnation: int
    rows_held: int = -1
    """Rows of higher versions are asked for, as far back as they are kept."""


class Refused(Message, frozen=True, kw_only=True):
    """You can't take part, and why: one sentence for the user."""

    text: str


class Expelled(Message, frozen=True, kw_only=True):
    """You are thrown out, and why: leave. A successor, under another id, is welcome; final: nobody is."""

    text: str
    final: bool = False


class View(Message, frozen=True, kw_only=True):
    """Roll call: stop, drop the groups of older generations, answer Ready."""

    generation: Generation
    members: list[Member]
    orders: list[Wanted] = []
    """All orders so far, in number order."""
    restoring: str | None = None
    """About to be restored; empty: the newest. Say in Ready, once all of it was hashed, whether it can be read."""
    word: str = ""
    """Larders hand the state of this generation to who knows it: its members. Empty in a run without keys."""


class Go(Message, frozen=True, kw_only=True):
    """Begin generation `generation` at `position`. One for each member; the deal of all is in it, so it is complete."""

    generation: Generation
    position: Position
    how: How
    keep: bool
    """Whether to keep the own sums of this position (they are disjoint from the others')."""
    deal: dict[int, list[int]]
    """sphere -> indices to compute for this position."""
    donor: int = 0
    """For FETCH: the sphere to fetch from. It may be fetching itself."""
    digest: str | None = None
    """Of the weights at `position`, for whoever fetches or loads them."""
    record: Record | None = None
    in_force: int = 0
    in_force_at: dict[int, int] = {}
    """Version -> order in force from there on, for the versions above the start that were made before."""
    known: int = -1
    """The newest version that was ever made. Up to it `in_force_at` alone decides what is in force, not the tail."""
    load: Stored | None = None
    """For LOAD: this checkpoint; None: that of version 0."""
    save: str | None = None
    """The next version that can be is to be saved, under this name (empty: its own): one was lost, or is ordered."""


class Tick(Message, frozen=True, kw_only=True):
    """Control's heartbeat, the same to all. It needs no echo: who hears nothing for silence_s breaks its connection, by
    libzmq's own heartbeat, and so does control; who hears and does not obey is thrown out by the roll call's time."""

    incarnation: int


class Orders(Message, frozen=True, kw_only=True):
    """Orders you have not yet seen, in number order, without a gap."""

    incarnation: int
    orders: list[Wanted]


class Seal(Message, frozen=True, kw_only=True):
    """All parts of this save are on the disk: write the manifest. To the first of its writers.

    control: control's state, spheres: a record of each; both as JSON, for the manifest.
    """

    generation: Generation
    version: int
    parts: list[Part]
    control: str
    spheres: str


class SaveOver(Message, frozen=True, kw_only=True):
    """This save is over. kept: it is whole; else take away what you wrote of it."""

    generation: Generation
    version: int
    kept: bool


class End(Message, frozen=True, kw_only=True):
    """The run is over for you: leave. status: completed, stopped or failed; LEFT: it goes on without you."""

    status: str
    reason: str = ""


LEFT = "left"
"""The status of an End to who was asked to leave, and may: nobody waits for anything of it."""


# ---------------------------------------------------------------- clients and control
class Ask(Message, frozen=True, kw_only=True):
    """A client's question or order. A repeated `request` id is answered again and acts once.

    what: status, tree, health, stats, checkpoints, wait, watch, heard; and the orders pause, resume, stop,
    set_learning_rate, checkpoint, restore, rebalance, terminate, spawn, drain. value: a learning rate, a version to
    wait for, how many events were heard (which has no answer). text: a checkpoint's name, a path (for drain also of a
    node, for all below it), a state to wait for.
    """

    request: Word
    what: Word
    value: float | None = None
    text: str = ""


class Answer(Message, frozen=True, kw_only=True):
    """To an Ask. For orders: `number` is the order's, `version` the version from which it is in force (None: not yet;
    a second Answer with the same request follows when it is)."""

    request: str
    ok: bool
    text: str = ""
    status: Status | None = None
    number: int | None = None
    version: int | None = None
    checkpoint: str = ""
    """The folder of the checkpoint that was ordered, once it is whole."""
    health: Health | None = None
    stats: list[NodeStats] | None = None
    checkpoints: list[SavedCheckpoint] | None = None


class Event(Message, frozen=True, kw_only=True):
    """A line of the run's story, to who watches. kind: row, sphere, generation, order, checkpoint, state, end; lost:
    so many lines before this one were not sent, for who watches is slow to read."""

    kind: str
    text: str
    row: Row | None = None
    status: Status | None = None
    lost: int = 0


StoreRequest: TypeAlias = StoreSet | StoreGet | StoreAdd | StoreDelete
FromSphere: TypeAlias = Hello | Proof | Beat | Row | Ready | Saving | Closed | Failed | Dialed | StoreRequest
ToSphere: TypeAlias = (
    Welcome | Refused | Expelled | View | Go | Tick | Orders | Seal | SaveOver | Dial | End | StoreReply
)
ToClient: TypeAlias = Answer | Event
ToControl: TypeAlias = FromSphere | Ask | Enrol | Brief | CheckUp
