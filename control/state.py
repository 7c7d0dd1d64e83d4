"""What control knows, as one frozen value; and which status may follow which.

Laws
  1. `apply` is the only writer. Everything here is a value: no clock, no socket, no file.
  2. A status follows another only as the literal table MOVES says; anything else is an IllegalMove and changes nothing.
  3. Times are of the caller's clock (seconds, its own zero); they are compared with each other and never sent.
"""

from __future__ import annotations

import enum
from collections.abc import Set

import msgspec

from .dials import Place, Reach
from .errors import IllegalMove
from .events import GenerationBegun, RestoreRefused, RunEnded
from .protocol import NO_GENERATION, Beat, Closed, Failed, Generation, Hello, Member, Proof, Ready, Saving, Wanted
from .saves import Key, Saves
from .seats import Seats
from .totals import Account
from .tree import wait_for
from .versions import Versions

UNHEARD_OF = 1000
"""A control that adopts leaves so many numbers free above those that it hears of, of spheres and of controls: whoever
heard of a later one may come later, or may have died with it."""


class ControlStatus(enum.Enum):
    """INITIALIZING until the first Go; PAUSED while a pause is in force; STOPPING from a stop order or the end until
    everybody has left."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"


MOVES: dict[ControlStatus, frozenset[ControlStatus]] = {
    ControlStatus.INITIALIZING: frozenset({ControlStatus.RUNNING, ControlStatus.STOPPING}),
    ControlStatus.RUNNING: frozenset({ControlStatus.PAUSED, ControlStatus.STOPPING}),
    ControlStatus.PAUSED: frozenset({ControlStatus.RUNNING, ControlStatus.STOPPING}),
    ControlStatus.STOPPING: frozenset({ControlStatus.STOPPED}),
    ControlStatus.STOPPED: frozenset(),
}


def moved(status: ControlStatus, to: ControlStatus) -> ControlStatus:
    """The status after a move; staying is always legal. Raises IllegalMove."""
    if to is status:
        return status
    if to not in MOVES[status]:
        legal = ", ".join(sorted(other.value for other in MOVES[status])) or "nothing"
        raise IllegalMove(f"control is {status.value} and can't become {to.value}; from here it can become {legal}")
    return to


class Told(msgspec.Struct, frozen=True, gc=False):
    """What was last sent to a sphere, and when: so a lost message is sent again and nothing is sent twice at once."""

    view: Generation = NO_GENERATION
    view_s: float = 0.0
    go: Generation = NO_GENERATION
    go_s: float = 0.0
    order: int = 0
    order_s: float = 0.0
    tick_s: float = float("-inf")
    seal: Key | None = None
    seal_s: float = 0.0
    save_over: Key | None = None
    over: bool = False


class Seat(msgspec.Struct, frozen=True, gc=False):
    """One sphere: who it said it is, what it last said, and whether its connection stands."""

    sphere: int
    hello: Hello
    heard_s: float
    connected: bool = True
    lost_s: float = 0.0
    proof: Proof | None = None
    beat: Beat | None = None
    ready: Ready | None = None
    saving: Saving | None = None
    closed: Closed | None = None
    failed: Failed | None = None
    refused: str = ""
    unreached: bool = False
    """It was refused as it and others did not reach each other, which may be mended."""
    expelled: str = ""
    """Why it was thrown out; empty: it was not."""
    released: bool = False
    """It was asked to leave, and may."""
    dead: bool = False
    """Its supervisor has seen it dead: a closed connection alone is no proof."""
    barred_s: float = 0.0
    """Left out until then."""
    bars: int = 0
    """How often that has happened to it."""
    waits_s: float = 0.0
    """Since when it could take part."""
    stands_s: float = 0.0
    """Since when its heartbeats say the same phase, position, tail and micro-batches."""
    worked: bool = False
    """It has finished a micro-batch: from then on it can be stuck."""
    broke_s: float | None = None
    """Since when it says that the newest generation failed."""
    suspected: bool = False
    """It raised a flag that a repetition on others did not confirm."""
    version: int = 0
    key: str = ""
    """The public key of the machine that took it; empty in a run without keys."""
    account: Account = msgspec.field(default_factory=Account)
    told: Told = msgspec.field(default_factory=Told)

    @property
    def path(self) -> str:
        return self.hello.path

    @property
    def member(self) -> Member:
        """As the others are told of it."""
        hello = self.hello
        return Member(sphere=self.sphere, path=hello.path, address=hello.address, port=hello.port, key=hello.larder_key)

    @property
    def place(self) -> Place | None:
        """Where others reach it; None: it is not said on which network stack that is."""
        hello = self.hello
        return (hello.stack, hello.address, self.key) if hello.stack else None

    @property
    def unseen(self) -> bool:
        """It is known by what another sphere remembers, and has not come itself."""
        return self.hello.pid == 0

    @property
    def name(self) -> str:
        """Who this is, for a sentence."""
        return f"sphere {self.hello.path} (pid {self.hello.pid} on {self.hello.host})"

    @property
    def doing(self) -> str:
        """Where it stood, for a sentence."""
        if self.beat is None:
            return "before its first heartbeat"
        return f"at version {max(self.version, self.beat.position.version)} while {self.beat.phase.value}"


class Order(msgspec.Struct, frozen=True):
    """An order given, and the version from which it is in force (None: not yet). text: as in OrderGiven."""

    wanted: Wanted
    what: str
    version: int | None = None
    text: str = ""


class State(msgspec.Struct, frozen=True):
    """Everything that decisions are made from."""

    run_id: str
    paths: tuple[str, ...]
    """Who is expected, in tree order."""
    tree: str = ""
    incarnation: int = 1
    silence_s: float = 5.0
    began_s: float = 0.0
    status: ControlStatus = ControlStatus.INITIALIZING
    seats: Seats[Seat] = msgspec.field(default_factory=Seats)
    sphere_at: dict[str, int] = msgspec.field(default_factory=dict)
    """Who came last at each path."""
    next_sphere: int = 1
    proof: Proof | None = None
    """The first that was accepted; everybody's is equal to it."""
    founded: str | None = None
    """The digest of v0, once the run has begun."""
    adopting_s: float | None = None
    """Started anew, and until then waiting for what runs already; None: not any more."""
    remembers: bool = False
    """It has no ledger of the run and takes the spheres' word for it (--adopt)."""
    generation: Generation = NO_GENERATION
    """The newest proposed."""
    members: tuple[Member, ...] = ()
    member_ids: frozenset[int] = frozenset()
    """Theirs."""
    proposed_s: float = 0.0
    called_for: str | None = None
    """The checkpoint that the newest generation was called to restore; None: none."""
    orders_in_view: int = 0
    begun: GenerationBegun | None = None
    """The running one: the last that was told to go."""
    orders: tuple[Order, ...] = ()
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    """Request id of a client -> number of the order it made or found."""
    broken: int = 0
    """Generations in a row that broke before they made a version, though nobody was lost."""
    versions: Versions = msgspec.field(default_factory=Versions)
    saves: Saves = msgspec.field(default_factory=Saves)
    restoring: int = 0
    """The order to restore that is not obeyed yet; 0: none."""
    deal_kept: int = -1
    """The version up to which the deal was held against what all members told."""
    refusals: dict[int, RestoreRefused] = msgspec.field(default_factory=dict)
    """Orders to restore that could not be obeyed, and why."""
    reach: Reach = msgspec.field(default_factory=Reach)
    lineage: int = 0
    origin: int = 0
    """The version at which this lineage began; what is saved of an older one counts up to there."""
    resumed: bool = False
    """It was begun before, with other processes."""
    anew: bool = False
    """Then: a lineage of its own begins where it goes on."""
    former: dict[str, str] = msgspec.field(default_factory=dict)
    """The fingerprint of those."""
    ended: RunEnded | None = None
    secret: bytes = b""
    """What the words of generations are made from; empty in a run without keys."""

    def __repr__(self) -> str:
        """Short, and without the secret."""
        return f"State({self.run_id}, {self.status.value}, generation {self.generation}, {len(self.seats)} seats)"

    @property
    def running(self) -> Generation:
        """The generation that computes; NO_GENERATION before the first Go."""
        return self.begun.generation if self.begun else NO_GENERATION

    @property
    def wanted(self) -> Wanted:
        """What all orders so far add up to."""
        return self.orders[-1].wanted if self.orders else Wanted()

    @property
    def exact(self) -> bool:
        """Whether results are unique, so that two claims of a version must be equal."""
        return self.fingerprint.get("reduction", "exact") != "float"

    @property
    def fingerprint(self) -> dict[str, str]:
        """The first admitted sphere's; everybody's is equal to it."""
        proof = self.proof
        return proof.fingerprint if proof else {}

    def seat_at(self, path: str) -> Seat | None:
        """The seat of the sphere that took `path`."""
        sphere = self.sphere_at.get(path)
        return self.seats[sphere] if sphere is not None else None

    @property
    def wait_for(self) -> int:
        """How many spheres the run begins with, wherever they are; 0: its tree names its paths."""
        return wait_for(self.tree)

    def line(self) -> Set[int]:
        """The members of the running generation: only who was one of them may carry on while one of them lives."""
        return self.begun.deal.keys() if self.begun else frozenset()

    def member_seats(self) -> list[Seat]:
        """The members' seats of the newest generation, in tree order."""
        return [self.seats[member.sphere] for member in self.members]
