"""The process groups of one generation, and how a collective is broken off.

Each node but the top has two groups of the same members, one for the way up and one for the way down: gloo pairs the
collectives of a group by their order, and with two groups one bucket may descend while the next ones climb.

Breaking off. gloo's own abort does nothing, and a ring notices a death only at its neighbours. So a sphere shuts the
sockets of its groups down (sockets.py): a blocked collective then raises within milliseconds, nearly always. In some
5% of the trials with messages in flight gloo closed the connection and told nobody who waited for it, so that the call
would have hung to its time-out. Therefore nobody waits in gloo for longer than WATCH_S at a time: then we look whether
the groups were broken off or one of their connections is gone, and leave the call behind.

A failed group is dropped at once, with everything that refers to it (a kept traceback is enough to keep it): its
sockets close, and that is what the far members notice. gloo threads may write into a failed call's tensors until then.
Destroying one may take until its operations time out: that is done beside everything else (graves.py).

Where each member has a GPU of its own, its buckets go over NCCL groups beside these two (nccl.py); messages never do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
from torch._C._distributed_c10d import PrefixStore, Store, Work
from torch.distributed import AllreduceOptions, BroadcastOptions, ProcessGroupGloo, ReduceOp, ReduceOptions

from control.crash import here
from control.protocol import Generation, Member
from lightwatch.device import CPU
from lightwatch.errors import LightwatchError

from . import nccl
from .graves import BUILDER, bury
from .levels import LevelPlan, backend_of, plan_levels
from .lookout import Lookout
from .meter import Meter
from .sockets import are_open, connections, listen, shut

Lane = Literal["up", "down"]
LANES: tuple[Lane, ...] = ("up", "down")
"""Which of a node's two groups; the top has but the one for up."""

SUM: Any = ReduceOp.SUM
OPERATION_TIMEOUT_S = 300.0
"""For one collective, before it is known how long a step takes. Long, as waiting for a slow sphere is no failure: a
dead one is told by its socket or by control."""
MESSAGE = 1
"""The tag of messages between two members."""
MESSAGES = ("send", "recv_anysource")
"""What they are sent by: always gloo."""
CONSTRUCTOR_SHARE = 0.5
"""Of the build's time, for one gloo constructor: it may block five times what it is given, in a thread left behind."""
WATCH_S = 0.25
"""How long a collective is left to gloo before we look for ourselves."""


class PeerLost(LightwatchError):
    """A group could not be built, or a collective broke: a peer is gone, or the generation is over.

    The tensor of the call is garbage; everything else is as it was.
    """


class Started:
    """A collective under way. It holds gloo's work itself, so that no frame of a traceback does."""

    def __init__(self, groups: Groups, plan: LevelPlan, name: str) -> None:
        self.work: Work | None = None
        self._groups = groups
        self._plan = plan
        self._name = name
        self.on_gpus = False

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

    def wait_unwatched(self) -> int:
        """As `wait`, for a message: its sender's rank. gloo can't be asked about those, only waited for: whoever calls
        this has somebody else watch `trouble`."""
        trouble = "the groups were broken off"
        try:
            if self.work is not None:
                self.work.wait(self._groups.timeout)
                rank = self.work._source_rank() if self._name == "recv_anysource" else 0
                self._groups.ended(self)
                return rank
        except (RuntimeError, AttributeError) as error:  # AttributeError: the work was dropped meanwhile
            trouble = _first_line(error)
        raise self._groups.fail(self._plan, self._name, trouble)

    def _ends_soon(self) -> bool:
        """Whether it ends well within WATCH_S; False if it is still under way. Raises what gloo raises."""
        work = self.work
        try:
            if work is not None and self.on_gpus:
                return nccl.ends_within(work, WATCH_S)
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
    """This sphere's groups in one generation. Each lane of each level is one thread's; `abort` may come from any.

    meter: the byte ledger to book in. timeout: of one collective, from the next one on. lookout: asked about peers that
    are waited for, if there is one.
    """

    def __init__(
        self,
        members: Sequence[Member],
        me: int,
        generation: Generation,
        operation_timeout_s: float = OPERATION_TIMEOUT_S,
        meter: Meter | None = None,
    ) -> None:
        self.plans = plan_levels(members, me)
        self.me = next(member for member in members if member.sphere == me)
        self.generation = generation
        self.leads = members[0].sphere == me
        self.meter = meter or Meter()
        self.timeout = timedelta(seconds=operation_timeout_s)
        self.lookout: Lookout | None = None
        self.device, self.gpu = CPU, ""
        """Where this sphere's sums lie, and which GPU of the world that is; set before `connect`."""
        self._store: Store | None = None  # C++ holds no reference to a store written in Python
        self._lock = threading.Lock()
        self._groups: dict[tuple[int, Lane], ProcessGroupGloo] = {}
        self._on_gpus: dict[tuple[int, Lane], Any] = {}  # by NCCL, where there is one
        self._sockets: dict[int, str] = {}  # descriptor -> its inode
        self._started: list[Started] = []
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
        here("sphere.before_groups")
        thread = threading.Thread(target=self._construct, args=(store, timeout_s), name=BUILDER, daemon=True)
        thread.start()
        trouble = self._wait_until_built(timeout_s)
        with self._lock:
            done = self._built.is_set()
            built = done and not self._trouble and not self._over.is_set()
            trouble = self._trouble or ("the build was broken off" if done else trouble)
        if built:
            thread.join()
            here("sphere.after_groups")
            return
        self.abort()
        self._bury()
        raise PeerLost(f"{self._who()} could not build its groups of generation {self.generation}: {trouble} [LW408]")

    def _wait_until_built(self, timeout_s: float) -> str:
        """Why it was given up, if it was."""
        began_s = time.monotonic()
        while (waited_s := time.monotonic() - began_s) < timeout_s:
            if self._built.wait(min(WATCH_S, timeout_s - waited_s)):
                return ""
            if self.lookout is not None and (trouble := self.lookout.trouble(waited_s)):
                return trouble
        return f"not built within {timeout_s:g} s"

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
        names.set(f"port of {self.me.sphere}", f"{port} {self.gpu}")
        ports: set[int] = set()
        for plan in reversed(self.plans):
            for lane in LANES[:1] if plan.top else LANES:
                self._add_group(names, plan, lane, device, timeout)
                told = [str(names.get(f"port of {peer.sphere}"), "ascii").split(" ", 1) for peer in plan.members]
                ports |= {int(theirs) for theirs, _ in told} - {port}
                with self._lock:
                    self._sockets = connections(port, ports)
                if backend_of([gpu for _, gpu in told]) == "nccl" and not self._over.is_set():
                    self._add_on_gpus(names, plan, lane, timeout)
                if self._over.is_set():
                    self.abort()
                    return

    def _add_group(
        self, names: Store, plan: LevelPlan, lane: Lane, device: ProcessGroupGloo.Device, timeout: timedelta
    ) -> None:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [device]
        options._timeout = timeout
        options._threads = 1  # collectives of a group run in the order in which they were called
        store = PrefixStore(f"{plan.name} {lane}", names)
        group = ProcessGroupGloo(store, plan.rank, len(plan.members), options)
        with self._lock:
            self._groups[plan.level, lane] = group

    def _add_on_gpus(self, names: Store, plan: LevelPlan, lane: Lane, timeout: timedelta) -> None:
        store = PrefixStore(f"{plan.name} {lane} on GPUs", names)
        group = nccl.build(store, plan.rank, len(plan.members), timeout, self.device)
        with self._lock:
            self._on_gpus[plan.level, lane] = group

    @property
    def wires_on(self) -> torch.device:
        """Where buckets travel best: on the own GPU if any group goes over NCCL, else on the CPU."""
        return self.device if self._on_gpus else CPU

    def is_on_gpus(self, plan: LevelPlan) -> bool:
        """Whether this group's buckets go over NCCL."""
        return (plan.level, LANES[0]) in self._on_gpus

    # ------------------------------------------------------------ collectives; each blocks and raises PeerLost

    def all_reduce(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
        """Everybody's tensor becomes the sum over the group."""
        options = AllreduceOptions()
        options.reduceOp = SUM
        began_s = time.perf_counter()
        self._start(plan, "up", "allreduce", tensor, options).wait()
        self.meter.reduced_everywhere(plan, tensor.nbytes, time.perf_counter() - began_s)

    def reduce(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
        """The leader's tensor becomes the sum over the group; the others' become garbage."""
        options = ReduceOptions()
        options.reduceOp = SUM
        options.rootRank = 0
        began_s = time.perf_counter()
        self._start(plan, "up", "reduce", tensor, options).wait()
        self.meter.handed(plan, up=tensor.nbytes if plan.rank else 0, seconds=time.perf_counter() - began_s)

    def broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
        """Everybody's tensor becomes the leader's."""
        began_s = time.perf_counter()
        self.start_broadcast(plan, tensor).wait()
        self.meter.handed(plan, seconds=time.perf_counter() - began_s)

    def start_broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> Started:
        """As `broadcast`, without waiting for its end: leave the tensor alone until then."""
        options = BroadcastOptions()
        options.rootRank = 0
        started = self._start(plan, "up" if plan.top else "down", "broadcast", tensor, options)
        self.meter.handed(plan, down=0 if plan.rank else tensor.nbytes * (len(plan.members) - 1))
        return started

    def send(self, plan: LevelPlan, rank: int, tensor: torch.Tensor) -> None:
        """Hand a small tensor to one member. Not watched: see `Started.wait_unwatched`."""
        self._start(plan, "up", "send", tensor, rank, MESSAGE).wait_unwatched()
        size = tensor.nbytes
        self.meter.handed(plan, up=size if rank == 0 else 0, down=size if rank else 0)

    def receive(self, plan: LevelPlan, tensor: torch.Tensor) -> int:
        """Take a tensor of this size from whoever sent one first; its sender's rank. Not watched."""
        return self._start(plan, "up", "recv_anysource", tensor, MESSAGE).wait_unwatched()

    def _start(self, plan: LevelPlan, lane: Lane, name: str, tensor: torch.Tensor, *arguments: Any) -> Started:
        for options in arguments:
            if not isinstance(options, int):
                options.timeout = self.timeout
        started = Started(self, plan, name)
        try:
            with self._lock:
                if not self._over.is_set():
                    group = self._groups[plan.level, lane]
                    if self._on_gpus and name not in MESSAGES and tensor.device == self.device:
                        group = self._on_gpus.get((plan.level, lane), group)
                        started.on_gpus = group is not self._groups[plan.level, lane]
                    started.work = getattr(group, name)([tensor], *arguments)
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
            f"{', which was broken off' if aborted else ''}: {trouble} [LW408]"
        )

    def trouble(self, waited_s: float = 0.0) -> str:
        """Why a collective under way will not end; empty if it may. waited_s: how long it was waited for already."""
        with self._lock:
            if self._over.is_set():
                return "the groups were broken off"
            if not are_open(self._sockets):
                return "a connection to a peer is gone"
        return self.lookout.trouble(waited_s) if self.lookout is not None else ""

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
        if self._on_gpus:
            self._bury()

    def close(self) -> None:
        """Drop the groups, without waiting for gloo. No barrier: call it when all are done, or when it is all over."""
        with self._lock:
            self._over.set()
            self._sockets = {}
        self._bury()

    def _bury(self) -> None:
        """Destroy groups and unfinished work in a thread: it takes until their time-out where sockets can't be shut."""
        with self._lock:
            remains: list[Any] = [*self._groups.values(), *(started.work for started in self._started)]
            on_gpus: list[Any] = [*self._on_gpus.values()]
            for started in self._started:
                started.work = None
            self._groups, self._on_gpus, self._started = {}, {}, []
        if remains:
            bury(remains, on_gpus)

    def _who(self) -> str:
        return f"sphere {self.me.sphere} ({self.me.path})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
