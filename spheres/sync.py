"""A trainer's tree: the Sync that answers roll calls, sums over groups and learns orders from control.

Laws
  1. gloo gets wire buffers only (wires.py), and they belong to a generation.
  2. A failed collective changes nothing here: this sphere says `failed_in` in every beat, until control calls a View.
  3. Seen orders and the generation are read together: who has heard of a newer generation adds to no older tail.
  4. Of an error only the words are kept; its traceback would keep dead groups alive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn

from control.protocol import NO_GENERATION, End, Failed, Generation, Go, How, Memory, Phase, Proof, View
from control.protocol import Wanted as WireWanted
from lightwatch.config import TrainingConfig
from lightwatch.device import CPU, identity_of
from lightwatch.errors import DataError, RunEnded, StateError, coded
from lightwatch.metrics import Closing, StepReport
from lightwatch.saver import Home
from lightwatch.snapshot import Snapshot
from lightwatch.sync import GenerationEnded, Length, Position, Sick, Standing, Start, Wanted
from lightwatch.tail import Tail
from lightwatch.trace import Trace

from . import nccl, points
from .fetch import FetchBroken
from .folder import Folder
from .graves import Worn, graves
from .groups import Groups, PeerLost
from .larder import Larder
from .link import ControlSilent, Link
from .lookout import Lookout
from .meter import Meter
from .patience import CONTROL_GONE_S, wait_for_control
from .probe import probe_from_outside, probe_members
from .provision import Provision
from .shares import Shares
from .state import Heard, operation_timeout_s
from .store import LinkStore
from .wires import Wires
from .words import closed_of, packed, position_of, ready_of, row_of, start_of, wire_position
from .writers import Saves, TreeWriters

T = TypeVar("T")
log = logging.getLogger("lightwatch.spheres")

FAREWELL_S = 60.0
"""With control silent for so long, a sphere whose last version is agreed leaves: it waits only for the run's end."""
SAVE_ENDS_S = 3.0
"""Once the run is over: what a save that is still in flight may take to be cleaned away."""
BUILD_SHARE = 4.0
"""Of silence_s: what building the groups of a generation may take; many spheres on few cores are slow."""
GRAVES_MOST = 16
"""Former generations' groups that gloo still holds; a process with more of them is started anew."""
MADE_A_VERSION = b"v"


class TreeSync:
    """The seam of `lightwatch.sync` on a tree.

    larder: where this sphere's state is fetched from. pulse: told once that this process has made a version.
    """

    alone = False
    listens = True

    def __init__(
        self,
        link: Link,
        run_id: str,
        silence_s: float,
        *,
        larder: Larder,
        folder: Folder,
        pulse: Callable[..., object] | None = None,
    ) -> None:
        self._link = link
        self._run_id = run_id
        self._silence_s = silence_s
        self._meter = Meter(link.path)
        self._provision = Provision(larder, folder, silence_s, self._meter)
        self._folder = folder
        self._pulse = pulse
        self._config: TrainingConfig | None = None
        self._generation: Generation = NO_GENERATION
        self._holds_state = False
        self._view: View | None = None
        self._go: Go | None = None
        self._wires: Wires | None = None
        self._gradient_bytes = 0
        self._shares: Shares | None = None
        self._lookout: Lookout | None = None
        self._step_s = self._longest_step_s = 0.0
        self.first = False
        self.members = 1
        self.rank = 0
        self.path = link.path
        self.local_rank, self.device = 0, CPU
        self.paths: tuple[str, ...] = ()
        self.trace: Trace | None = None
        self.finish: Callable[[], object] | None = None
        self.kept: Callable[..., object] | None = None
        self.home = Home(run=run_id)
        self.saves = Saves(link)
        self._last: tuple[Closing, nn.Module] | None = None

    # ------------------------------------------------------------ becoming part of a generation

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        """Send the proof; a refusal shows where the roll call is waited for."""
        if self.finish is not None:
            raise StateError(
                "a run on a tree trains one model: this script's second Trainer has no place in it [LW806]"
            )
        self._config = config
        self._folder.trains(self.home, config, fingerprint["data"])
        self._gradient_bytes = length.gradient_bytes
        self._link.send(
            Proof(
                fingerprint=fingerprint,
                micro_batches=config.micro_batches,
                max_steps=length.max_steps,
                steps_per_epoch=length.steps_per_epoch,
            )
        )

    def begin(self, standing: Standing) -> Start:
        """Roll call: View, Ready, Go, groups. Again, for as long as generations fail to form."""
        self._leave_generation()
        while True:
            view = self._await(self._newer_view, "with a roll call")
            if not self._enter_view(view):
                continue  # left out of it: frozen until there is one for this sphere too
            if self.first and not self._holds_state and standing.position == Position() and not self._folder.has_v0():
                self._folder.write_v0(standing.snapshot())
            stored = self._folder.stored() if not self._holds_state else []
            stored = stored if view.restoring is None else self._folder.whole(view.restoring)
            has_v0 = self._folder.has_v0()
            self._link.send(
                ready_of(view.generation, standing, holds_state=self._holds_state, has_v0=has_v0, stored=stored)
            )
            go = self._await(self._go_or_newer, "to Ready")
            if isinstance(go, Go) and self._obey(view, go):
                self._provision.begin(go, standing.snapshot)
                return start_of(go)

    def fetch(self) -> Snapshot:
        """From the donor that Go named, or from a checkpoint; what came is kept for another try."""
        assert self._go is not None and self._view is not None
        go, me = self._go, self._link.heard.sphere
        donor = next((peer for peer in self._view.members if peer.sphere == go.donor and peer.sphere != me), None)
        self._link.stand(phase=Phase.FETCHING)
        try:
            snapshot = self._provision.get(go, donor, lambda: self._link.heard.ends(go.generation))
        except (FetchBroken, DataError) as error:
            self._break_off(str(error))
        self._holds_state = True
        return snapshot

    def _newer_view(self, heard: Heard) -> View | None:
        return heard.view if heard.generation > self._generation else None

    def _go_or_newer(self, heard: Heard) -> Go | View | None:
        return self._newer_view(heard) or heard.go

    def _enter_view(self, view: View) -> bool:
        """Freeze; whether this sphere is one of the members."""
        self._generation = view.generation
        ids = [member.sphere for member in view.members]
        left_out = self._link.heard.sphere not in ids
        unfound = ids if left_out else []  # until a look has found them: only then may it cost them a generation
        self._link.stand(phase=Phase.FROZEN, generation=view.generation, accuses=0, unreachable=unfound)
        if left_out:
            log.info("this sphere is left out of generation %s", view.generation)
            probe_from_outside(self._link, view, self._silence_s)
            return False
        self._view = view
        self._provision.enter(view)
        self.members, self.rank = len(ids), ids.index(self._link.heard.sphere)
        self.paths = tuple(member.path for member in view.members)
        self.first = self.rank == 0
        if self.first and self._config is not None:
            self._folder.configured(self._config)
            self._config = None
        return True

    def _obey(self, view: View, go: Go) -> bool:
        """This generation runs: connect its groups. False if that failed, which the beats then say."""
        self._holds_state = self._holds_state or go.how is How.HERE
        self._link.remember(Memory(generation=view.generation, members=view.members, position=go.position))
        if graves() > GRAVES_MOST:
            raise Worn(f"gloo still holds {graves()} groups of former generations: start this sphere anew [LW408]")
        groups = Groups(view.members, self._link.heard.sphere, view.generation, meter=self._meter)
        groups.device, groups.gpu = self.device, identity_of(self.device)
        groups.timeout = timedelta(seconds=operation_timeout_s(self._longest_step_s))
        peers = {peer.sphere: peer for plan in groups.plans for peer in plan.members if peer != groups.me}
        self._lookout = groups.lookout = Lookout(list(peers.values()), self._silence_s)
        self._link.on_interrupt(groups.abort, view.generation)
        self._link.stand(phase=Phase.BUILDING)
        timeout_s = self._silence_s * BUILD_SHARE + (nccl.BUILD_S if groups.gpu else 0.0)
        try:
            groups.connect(LinkStore(self._link, self._run_id, view.generation, timeout_s), timeout_s)
        except PeerLost as error:
            self._freeze(str(error))
            return False
        self._go, self._wires = go, Wires(groups)
        self._shares = Shares(go, [member.sphere for member in view.members])
        return True

    def _leave_generation(self) -> None:
        self._link.on_interrupt(None)
        self._provision.end()
        if self._wires is not None:
            self._wires.close()
        self._wires = self._go = self._shares = self._lookout = None

    def _break_off(self, why: str) -> NoReturn:
        self._freeze(why)
        raise GenerationEnded(why)

    def _freeze(self, why: str, accuses: int = 0) -> None:
        """Say in every beat that this generation failed here, and look who can't be reached, without waiting."""
        log.warning("%s", why)
        if self._wires is not None:
            self._wires.groups.abort()
        gone = self._lookout.gone if self._lookout is not None else []
        self._link.stand(phase=Phase.FROZEN, failed_in=self._generation, accuses=accuses, unreachable=gone)
        if self._view is not None and not self._link.heard.ends(self._generation):
            probe_members(self._link, self._view, self._silence_s)

    # ------------------------------------------------------------ a step

    def deal(self, position: Position, training: int, evaluation: int) -> Sequence[int]:
        """Go's deal for the position that the generation began at; afterwards shares by pace; evaluation evenly."""
        assert self._shares is not None and self._wires is not None
        self._wires.show(self.trace)
        if self._wires.dirty or self._shares.begins_anew(
            position, training
        ):  # after an exception that a script outlived
            self._break_off("a step was begun anew after a part of it had been handed on [LW408]")
        number = self._link.standing.in_force
        wanted = self._link.heard.orders[number - 1] if number else WireWanted()
        units = self._shares.of(self._link.heard.sphere, position, training, evaluation, wanted)
        self._step_s = time.monotonic()
        self._link.stand(closing=not training)
        return units

    def reduce(self, bucket: Tensor) -> None:
        assert self._wires is not None
        self._wires.send(bucket)

    def reduced(self) -> list[Tensor]:
        assert self._wires is not None
        try:
            return self._wires.sums()
        except PeerLost as error:
            self._break_off(str(error))

    def tail(self, tail: Tail, position: Position) -> Tail:
        assert self._wires is not None and self._shares is not None
        heard = self._link.heard
        if heard.ends(self._generation):
            raise GenerationEnded(f"generation {self._generation} is over")
        mine = {
            "generation": self._generation[0] << 32 | self._generation[1],
            "position": packed(position),
            "deal": self._shares.check,
            "seen": heard.seen,
        }
        for name, value in mine.items():
            tail.members[name][self.rank] = value
        points.before_tail(self._shares.training)
        try:
            self._wires.sum_tail(torch.from_numpy(tail.vector))
        except PeerLost as error:
            self._break_off(str(error))
        points.after_tail(self._shares.training)
        self._provision.arrived()
        self._shares.computed(position, tail.units["owner"].tolist())
        self._longest_step_s = max(self._longest_step_s, time.monotonic() - self._step_s)
        self._wires.groups.timeout = timedelta(seconds=operation_timeout_s(self._longest_step_s))
        return tail

    def unsound(self, reason: str, odd: int | None = None) -> NoReturn:
        """The odd one leaves, and says so; the others wait for a generation without it."""
        if odd is not None and odd == self.rank:
            told = f"sphere {self.path} can't trust its own memory, and leaves for a successor: {reason}"
            self._link.send(Failed(text=coded(told, "LW304"), sick=True))
            raise Sick(coded(told, "LW304"))
        assert self._view is not None
        self._freeze(reason, self._view.members[odd].sphere if odd is not None else 0)
        raise GenerationEnded(reason)

    def name_of(self, rank: int) -> str:
        return f"sphere {self.paths[rank]}"

    # ------------------------------------------------------------ orders and reports

    def wanted(self, number: int) -> Wanted:
        if number == 0:
            return Wanted()
        order = self._link.heard.orders[number - 1]
        return Wanted(order.number, order.paused, order.stopped, order.learning_rate, order.saves, order.save_as)

    def next_order(self, in_force: Wanted) -> Wanted:
        self._await(partial(self._order_or_newer, in_force.number + 1), "with an order")
        if self._link.heard.ends(self._generation):
            raise GenerationEnded(f"generation {self._generation} is over")
        self._link.stand(in_force=in_force.number + 1)
        return self.wanted(in_force.number + 1)

    def writers(self, position: Position, saves: int) -> TreeWriters | None:
        assert self._view is not None
        return self.saves.begin(self._view, position, saves)

    def _order_or_newer(self, number: int, heard: Heard) -> bool | None:
        return heard.seen >= number or heard.ends(self._generation) or None

    def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
        if self._link.heard.ends(self._generation):  # between micro-batches the sums are whole
            raise GenerationEnded(f"generation {self._generation} is over")
        if self._go is None:
            return
        if position == position_of(self._go.position):
            self._provision.serve(self._go)  # after a record was followed, this sphere holds it too
        at = wire_position(position)
        self._link.stand(phase=Phase(phase), position=at, units_done=done, units_dealt=dealt)

    def report(self, report: StepReport) -> None:
        assert self._view is not None and self._go is not None and self._wires is not None
        if report.seconds:  # a step made it, skipped or not
            self._meter.made_version(self._wires.groups.plans, self._gradient_bytes)
        self._link.send(row_of(report, self._view, self._meter.lines(), self._wires.round_trips()))
        self._link.stand(in_force=report.in_force)  # after the row: the order holds from that version, not before
        if report.how != "here":
            self._folder.note(
                version=report.version, generation=list(self._generation), how=report.how, units=report.own_units,
                attempts=report.attempts,
            )  # fmt: skip
        if report.seconds and self._pulse is not None:
            self._pulse(MADE_A_VERSION)
            self._pulse = None

    def closed(self, closing: Closing, model: nn.Module) -> None:
        self._last = (closing, model)
        self._link.stand(phase=Phase.CLOSING)

    # ------------------------------------------------------------ the end

    def leave(self) -> None:
        """The script has ended: keep the model, tell control, and stay until it says that the run is over.

        Until then this sphere takes part in new generations, as a holder. Raises StateError if nothing was trained,
        RunEnded if the run failed. With control dead it leaves by itself.
        """
        if self.finish is not None:
            self.finish()
        while True:
            self._say_closed()
            try:
                told = self._await(self._end_or_newer, "to Closed", FAREWELL_S)
            except ControlSilent as error:
                log.warning("%s; the last version is agreed, so this sphere leaves", error)
                return
            if isinstance(told, End):
                break
            if self.finish is not None:
                self.finish()
        self.saves.wait_until_over(SAVE_ENDS_S)
        self._leave_generation()
        self._link.stand(phase=Phase.CLOSED)
        if told.status == "failed":
            raise RunEnded(told.status, told.reason)

    def _say_closed(self) -> None:
        if self._last is None or self._wires is None:
            raise StateError("the script ended without training: call Trainer(...).train() [LW803]")
        if self._go is not None:
            self._provision.serve(self._go)  # one that came to the end by a record computes nothing more
        closing, model = self._last
        self._link.stand(phase=Phase.CLOSING)
        save_s = self._folder.save(model, closing.digest, self.kept) if self.first else 0.0
        self._link.send(closed_of(closing, self._generation, self._meter.lines(), save_s))

    def _end_or_newer(self, heard: Heard) -> End | View | None:
        return heard.end or self._newer_view(heard)

    def _await(self, pick: Callable[[Heard], T | None], to: str, gone_s: float = CONTROL_GONE_S) -> T:
        return wait_for_control(self._link, pick, to, self._silence_s, gone_s)
