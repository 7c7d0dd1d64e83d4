"""The process groups of one generation: who adds up with whom, and how a collective is broken off.

From paths to groups
  1. A path is a leaf; its prefixes are inner nodes; the empty prefix is the root, level 0.
  2. The leader of a node is the first sphere under it, in the order of the View.
  3. An inner node with more than one child has a group: the leaders of its children. The first of them is rank 0 and
     leads the node too. So a sphere is in the groups of its deepest nodes, as far up as it leads.
  4. The first node that branches, seen from the root, holds the whole tree; its group is the `top`.

Breaking off. gloo's own abort does nothing, and a ring notices a death only at its neighbours. So a sphere shuts the
sockets of its groups down (sockets.py): a blocked collective then raises within milliseconds, nearly always. In some
5% of the trials with messages in flight gloo closed the connection and told nobody who waited for it, so that the call
would have hung to its time-out. Therefore nobody waits in gloo for longer than WATCH_S at a time: then we look whether
the groups were broken off or one of their connections is gone, and leave the call behind.

A failed group is dropped at once, with everything that refers to it (a kept traceback is enough to keep it): its
sockets close, and that is what the far members notice. gloo threads may write into a failed call's tensors until then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch._C._distributed_c10d import PrefixStore, Store, Work
from torch.distributed import AllreduceOptions, BroadcastOptions, ProcessGroupGloo, ReduceOp, ReduceOptions

from control.protocol import Generation, Member
from lightwatch.errors import LightwatchError

from .sockets import are_open, connections, listen, shut

Operation = Literal["sum", "max", "min"]

OPERATIONS: dict[str, Any] = {"sum": ReduceOp.SUM, "max": ReduceOp.MAX, "min": ReduceOp.MIN}
OPERATION_TIMEOUT_S = 6 * 3600.0
"""For one collective. Long, as waiting for a slow sphere is no failure; a dead one is told by its socket or control."""
CONSTRUCTOR_SHARE = 0.5
"""Of the build's time, for one gloo constructor: it may block five times what it is given, in a thread left behind."""
WATCH_S = 0.25
"""How long a collective is left to gloo before we look for ourselves."""
FAREWELL_S = 2.0
"""How long `close` waits for what it destroys; a call that gloo forgot holds its group to its time-out."""


class PeerLost(LightwatchError):
    """A group could not be built, or a collective broke: a peer is gone, or the generation is over.

    The tensor of the call is garbage; everything else is as it was.
    """


@dataclass(frozen=True)
class LevelPlan:
    """One group of one sphere."""

    level: int
    """Depth of the node; 0 is the root."""
    node: str
    members: tuple[Member, ...]
    """The leaders of the node's children: rank 0 leads the node."""
    rank: int
    top: bool
    """Whether the whole tree is below this node."""

    @property
    def name(self) -> str:
        """Unique in its generation."""
        return f"level {self.level}/{self.node}" if self.node else "root"


def plan_levels(members: Sequence[Member], me: int) -> list[LevelPlan]:
    """The groups that sphere `me` takes part in, nearest to the root first; none if it is alone."""
    mine = next((member for member in members if member.sphere == me), None)
    if mine is None:
        raise ValueError(f"sphere {me} is none of the members {[member.sphere for member in members]}")
    parts = mine.path.split("/")
    plans: list[LevelPlan] = []
    top = True
    for level in range(len(parts)):
        leaders = _leaders(members, parts[:level])
        here = [leader.sphere for leader in leaders]
        if len(leaders) > 1:
            if me in here:
                node = "/".join(parts[:level])
                plans.append(LevelPlan(level, node, tuple(leaders), here.index(me), top))
            top = False
    return plans


def _leaders(members: Sequence[Member], node: list[str]) -> list[Member]:
    """The first sphere under each child of `node`, in the members' order."""
    leaders: dict[str, Member] = {}
    for member in members:
        parts = member.path.split("/")
        if parts[: len(node)] == node:
            if len(parts) == len(node):
                raise ValueError(f"sphere {member.sphere} is at {member.path}, which is an inner node of the tree")
            leaders.setdefault(parts[len(node)], member)
    return list(leaders.values())


class Started:
    """A collective under way. It holds gloo's work itself, so that no frame of a traceback does."""

    def __init__(self, groups: Groups, plan: LevelPlan, name: str) -> None:
        self.work: Work | None = None
        self._groups = groups
        self._plan = plan
        self._name = name

    def wait(self) -> None:
        """Block until it has ended. Raises PeerLost."""
        trouble = "the groups were broken off"
        try:
            while self.work is not None:
                if self._ends_soon():
                    self._groups.ended(self)
                    return
                trouble = self._groups.trouble()
                if trouble:
                    break
        except RuntimeError as error:
            trouble = _first_line(error)
        raise self._groups.fail(self._plan, self._name, trouble)

    def _ends_soon(self) -> bool:
        """Whether it ends well within WATCH_S; False if it is still under way. Raises what gloo raises."""
        work = self.work
        try:
            if work is not None:
                work.wait(timedelta(seconds=WATCH_S))
        except RuntimeError:
            if work is None or not work.is_completed():
                return False
            work.wait()  # it ended just now: well, or with an error of its own
        finally:
            del work
        return True


class Groups:
    """This sphere's groups in one generation. One thread runs collectives; `abort` may be called from any.

    bytes_per_level: payload that this sphere handed over, from the root level down: an all-reduce counts at every
    member, a reduce at all but the leader, a broadcast at the leader.
    """

    def __init__(
        self,
        members: Sequence[Member],
        me: int,
        generation: Generation,
        operation_timeout_s: float = OPERATION_TIMEOUT_S,
    ) -> None:
        self.plans = plan_levels(members, me)
        self.me = next(member for member in members if member.sphere == me)
        self.generation = generation
        self.leads = members[0].sphere == me
        self.bytes_per_level = [0] * max(len(member.path.split("/")) for member in members)
        self._timeout = timedelta(seconds=operation_timeout_s)
        self._store: Store | None = None  # C++ holds no reference to a store written in Python
        self._lock = threading.Lock()
        self._groups: dict[int, ProcessGroupGloo] = {}  # level -> group
        self._sockets: dict[int, str] = {}  # descriptor -> its inode
        self._started: list[Started] = []
        self._graves: list[threading.Thread] = []
        self._over = threading.Event()  # aborted, failed or closed: never usable again
        self._built = threading.Event()
        self._trouble = ""

    def __repr__(self) -> str:
        names = ", ".join(f"{plan.name} {plan.rank}/{len(plan.members)}" for plan in self.plans)
        return f"Groups(sphere {self.me.sphere}, generation {self.generation}: {names or 'alone'})"

    @classmethod
    def build(
        cls, store: Store, members: Sequence[Member], me: int, generation: Generation, timeout_s: float
    ) -> Groups:
        """Plan and connect. Who may have to abort in the meantime makes `Groups` and calls `connect` on it."""
        groups = cls(members, me, generation)
        groups.connect(store, timeout_s)
        return groups

    def connect(self, store: Store, timeout_s: float) -> None:
        """Build the groups, leaf to root. Blocks until all peers came, at most timeout_s; raises PeerLost.

        In a thread of its own: gloo's constructor can't be broken off, so on failure that thread is left behind (it
        destroys what it gets in the end).
        """
        self._store = store
        thread = threading.Thread(target=self._construct, args=(store, timeout_s), name="groups", daemon=True)
        thread.start()
        done = self._built.wait(timeout_s)
        with self._lock:
            built = done and not self._trouble and not self._over.is_set()
            trouble = self._trouble or ("the build was broken off" if done else f"not built within {timeout_s:g} s")
        if built:
            thread.join()
            return
        self._graves.append(thread)
        self.abort()
        self._bury()
        raise PeerLost(f"{self._who()} could not build its groups of generation {self.generation}: {trouble}")

    def _construct(self, store: Store, timeout_s: float) -> None:
        try:
            self._construct_all(store, timedelta(seconds=timeout_s * CONSTRUCTOR_SHARE))
        except Exception as error:  # whatever torch or the store made of it: a sentence for connect()
            with self._lock:
                self._trouble = _first_line(error)
        finally:
            self._built.set()
        if self._over.is_set():
            self._groups.clear()

    def _construct_all(self, store: Store, timeout: timedelta) -> None:
        if not self.plans:
            return
        names = PrefixStore("generation {}.{}".format(*self.generation), store)
        device, port = listen(self.me.address)
        names.set(f"port of {self.me.sphere}", str(port))
        ports: set[int] = set()
        for plan in reversed(self.plans):
            options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [device]
            options._timeout = timeout
            options._threads = 1  # collectives of a group run in the order in which they were called
            group = ProcessGroupGloo(PrefixStore(plan.name, names), plan.rank, len(plan.members), options)
            ports |= {int(names.get(f"port of {peer.sphere}")) for peer in plan.members if peer is not self.me}
            with self._lock:
                self._groups[plan.level] = group
                self._sockets = connections(port, ports)
            del group
            if self._over.is_set():
                self.abort()
                return

    # ------------------------------------------------------------ collectives; each blocks and raises PeerLost

    def all_reduce(self, plan: LevelPlan, tensor: torch.Tensor, operation: Operation = "sum") -> None:
        """Everybody's tensor becomes the reduction over the group."""
        options = AllreduceOptions()
        options.reduceOp = OPERATIONS[operation]
        self._start(plan, "allreduce", tensor, options).wait()
        self.bytes_per_level[plan.level] += tensor.nbytes

    def reduce(self, plan: LevelPlan, tensor: torch.Tensor, operation: Operation = "sum") -> None:
        """The leader's tensor becomes the reduction over the group; the others' become garbage."""
        options = ReduceOptions()
        options.reduceOp = OPERATIONS[operation]
        options.rootRank = 0
        self._start(plan, "reduce", tensor, options).wait()
        self.bytes_per_level[plan.level] += tensor.nbytes if plan.rank else 0

    def broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
        """Everybody's tensor becomes the leader's."""
        self.start_broadcast(plan, tensor).wait()

    def start_broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> Started:
        """As `broadcast`, without waiting for its end: leave the tensor alone until then."""
        options = BroadcastOptions()
        options.rootRank = 0
        started = self._start(plan, "broadcast", tensor, options)
        self.bytes_per_level[plan.level] += 0 if plan.rank else tensor.nbytes
        return started

    def _start(self, plan: LevelPlan, name: str, tensor: torch.Tensor, options: Any) -> Started:
        options.timeout = self._timeout
        started = Started(self, plan, name)
        try:
            with self._lock:
                if not self._over.is_set():
                    started.work = getattr(self._groups[plan.level], name)([tensor], options)
                    self._started.append(started)
                    return started
            trouble = "the groups were broken off"
        except RuntimeError as error:
            trouble = _first_line(error)
        raise self.fail(plan, name, trouble)

    def fail(self, plan: LevelPlan, name: str, trouble: str) -> PeerLost:
        """Break off and drop the groups, now that collective `name` failed; the error to raise."""
        aborted = self._over.is_set()
        self.abort()
        self._bury()
        peers = ", ".join(f"{peer.sphere} ({peer.path})" for peer in plan.members if peer.sphere != self.me.sphere)
        return PeerLost(
            f"{self._who()} could not {name} with {peers} in generation {self.generation}"
            f"{', which was broken off' if aborted else ''}: {trouble}"
        )

    def trouble(self) -> str:
        """Why a collective under way will not end; empty if it may."""
        with self._lock:
            if self._over.is_set():
                return "the groups were broken off"
            return "" if are_open(self._sockets) else "a connection to a peer is gone"

    def ended(self, started: Started) -> None:
        """Forget a collective that ended well."""
        with self._lock:
            if started in self._started:
                self._started.remove(started)

    # ------------------------------------------------------------ the end

    def abort(self) -> None:
        """Break off, from any thread: every collective of this generation raises here at once, soon at the peers."""
        with self._lock:
            self._over.set()
            self._built.set()
            sockets, self._sockets = self._sockets, {}
        for descriptor, inode in sockets.items():
            shut(descriptor, inode)

    def close(self) -> None:
        """Drop the groups; nothing of them is left unless gloo hangs. No barrier: call it when all are done."""
        with self._lock:
            self._over.set()
            self._sockets = {}
        self._bury()
        deadline = time.monotonic() + FAREWELL_S
        for grave in self._graves:
            grave.join(max(0.0, deadline - time.monotonic()))

    def _bury(self) -> None:
        """Destroy groups and unfinished work in a thread: it takes until their time-out where sockets can't be shut."""
        with self._lock:
            remains: list[object] = [*self._groups.values(), *(started.work for started in self._started)]
            for started in self._started:
                started.work = None
            self._groups, self._started = {}, []
        if remains:
            grave = threading.Thread(target=remains.clear, name="graveyard", daemon=True)
            self._graves.append(grave)
            grave.start()

    def _who(self) -> str:
        return f"sphere {self.me.sphere} ({self.me.path})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
