"""A trainer's tree: the Sync that answers roll calls, sums over groups and learns orders from control.

Laws
  1. gloo gets wire buffers only: an own sum is copied just before its reduction, for a reduction that fails leaves
     garbage. Wire buffers belong to a generation; the next one gets fresh ones.
  2. A failed collective changes nothing here: this sphere says `failed_in` in every beat, until control calls a View.
  3. Seen orders and the generation are read together: who has heard of a newer generation adds to no older tail.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn

from control.protocol import NO_GENERATION, Closed, Generation, Go, How, Phase, Proof, Ready, Row, View
from control.protocol import Position as WirePosition
from lightwatch.config import TrainingConfig
from lightwatch.errors import ReductionError, RunEnded, StateError
from lightwatch.metrics import Closing, StepReport
from lightwatch.sync import GenerationEnded, Length, Position, Standing, Start, Wanted
from lightwatch.tail import Tail
from lightwatch.trace import Trace

from .broadcast import broadcast_state
from .groups import Groups, PeerLost
from .link import ControlSilent, Link
from .meter import Meter
from .pipeline import Pipeline
from .state import Heard, share_out
from .store import LinkStore

T = TypeVar("T")
log = logging.getLogger("lightwatch.spheres")

CONTROL_GONE_S = 60.0
"""With control silent for so long, a sphere that needs it gives up."""
BUILD_SHARE = 4.0
"""Of silence_s: what building the groups of a generation may take; many spheres on few cores are slow."""


class TreeSync:
    """The seam of `lightwatch.sync` on a tree.

    keep: called with the model once the last version is agreed, on the first sphere only, before control hears of it:
    what it writes is there when the run is over. configured: called with the trainer's config, on the first sphere.
    """

    alone = False
    listens = True

    def __init__(
        self,
        link: Link,
        run_id: str,
        silence_s: float,
        *,
        keep: Callable[[nn.Module], Path],
        configured: Callable[[TrainingConfig], None],
    ) -> None:
        self._link = link
        self._run_id = run_id
        self._silence_s = silence_s
        self._keep = keep
        self._configured = configured
        self._config: TrainingConfig | None = None
        self._generation: Generation = NO_GENERATION
        self._view: View | None = None
        self._go: Go | None = None
        self._groups: Groups | None = None
        self._pipeline: Pipeline | None = None
        self._meter = Meter()
        self._gradient_bytes = 0
        self._wires: list[Tensor] = []
        self._next_wire = 0
        self._homes: list[torch.device] = []
        self._dirty = self._dealt = False
        self._deal_check = 0
        self.first = False
        self.members = 1
        self.rank = 0
        self.path = link.path
        self.paths: tuple[str, ...] = ()
        self.trace: Trace | None = None
        self.finish: Callable[[], object] | None = None
        self.kept: Callable[[Path], object] | None = None
        self._last: tuple[Closing, nn.Module] | None = None

    # ------------------------------------------------------------ becoming part of a generation

    def admit(self, fingerprint: dict[str, str], config: TrainingConfig, length: Length) -> None:
        """Send the proof; a refusal shows where the roll call is waited for."""
        if self.finish is not None:
            raise StateError(
                "a run on a tree trains one model: this script's second Trainer has no place in it [LW806]"
            )
        self._config = config
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
            self._enter_view(view)
            self._link.send(
                Ready(
                    generation=view.generation,
                    position=WirePosition(*standing.position),
                    holds_state=True,
                    digest=standing.digest,
                    done=list(standing.done),
                    has_sums=standing.has_sums,
                    in_force=standing.in_force,
                )
            )
            go = self._await(self._go_or_newer, "to Ready")
            if isinstance(go, Go) and self._build(view):
                self._go = go
                return Start(
                    Position(*_tuple(go.position)),
                    keep=go.keep,
                    share=bool(go.donor),
                    holder=go.how is not How.FETCH,
                    in_force=go.in_force,
                )

    def share_state(self, tensors: dict[str, Tensor], start: Start) -> None:
        """The donor is the first sphere: its state goes down the tree, checked at each hop."""
        assert self._groups is not None
        self._link.stand(phase=Phase.FETCHING)
        try:
            broadcast_state(self._groups, tensors, start.holder)
        except PeerLost as error:
            self._break_off(error)

    def _newer_view(self, heard: Heard) -> View | None:
        return heard.view if heard.generation > self._generation else None

    def _go_or_newer(self, heard: Heard) -> Go | View | None:
        return self._newer_view(heard) or heard.go

    def _enter_view(self, view: View) -> None:
        self._view, self._generation = view, view.generation
        ids = [member.sphere for member in view.members]
        self.members, self.rank = len(ids), ids.index(self._link.heard.sphere)
        self.paths = tuple(member.path for member in view.members)
        self.first = self.rank == 0
        if self.first and self._config is not None:
            self._configured(self._config)
            self._config = None
        self._link.stand(phase=Phase.FROZEN, generation=view.generation)

    def _build(self, view: View) -> bool:
        """Connect the groups; False if that failed, which the beats then say."""
        groups = Groups(view.members, self._link.heard.sphere, view.generation, meter=self._meter)
        self._link.on_interrupt(groups.abort, view.generation)
        self._link.stand(phase=Phase.BUILDING)
        timeout_s = self._silence_s * BUILD_SHARE
        try:
            groups.connect(LinkStore(self._link, self._run_id, view.generation, timeout_s), timeout_s)
        except PeerLost as error:
            log.warning("%s", error)
            self._link.stand(phase=Phase.FROZEN, failed_in=view.generation)
            return False
        self._groups, self._pipeline = groups, Pipeline(groups)
        return True

    def _leave_generation(self) -> None:
        self._link.on_interrupt(None)
        if self._pipeline is not None:
            self._pipeline.close()
        if self._groups is not None:
            self._groups.close()
        self._groups, self._pipeline, self._go = None, None, None
        self._wires, self._homes, self._next_wire = [], [], 0
        self._dirty = self._dealt = False

    def _break_off(self, error: PeerLost) -> NoReturn:
        log.warning("%s", error)
        self._link.stand(phase=Phase.FROZEN, failed_in=self._generation)
        raise GenerationEnded(str(error)) from None

    # ------------------------------------------------------------ a step

    def deal(self, position: Position, training: int, evaluation: int) -> Sequence[int]:
        """Go's deal for the position that the generation began at, even shares afterwards; evaluation evenly too."""
        assert self._view is not None and self._pipeline is not None
        self._pipeline.trace = self.trace
        ids = [member.sphere for member in self._view.members]
        deal = share_out(training, ids, position.attempt)
        anew = self._dirty
        if self._go is not None and training and position == _tuple(self._go.position):
            deal = self._go.deal
            anew = anew or (self._dealt and self._go.keep)
            self._dealt = True
        if anew:  # after an exception that the script survived: what was sent, or kept, is no longer what is told
            assert self._groups is not None
            self._groups.abort()
            self._break_off(PeerLost("a step was begun anew after a part of it had been handed on [LW408]"))
        evaluations = share_out(evaluation, ids, position.attempt)
        self._deal_check = zlib.crc32(repr((sorted(deal.items()), evaluations)).encode())
        self._link.stand(closing=not training)
        mine = self._link.heard.sphere
        return [*deal.get(mine, ()), *(training + unit for unit in evaluations[mine])]

    def reduce(self, bucket: Tensor) -> None:
        assert self._pipeline is not None
        if self._next_wire == len(self._wires):
            self._wires.append(torch.empty(bucket.shape, dtype=bucket.dtype, device="cpu"))
            self._homes.append(bucket.device)
        wire = self._wires[self._next_wire]
        wire.copy_(bucket)
        self._dirty = True
        self._pipeline.start(wire)
        self._next_wire += 1

    def reduced(self) -> list[Tensor]:
        assert self._pipeline is not None
        self._next_wire = 0
        try:
            return [wire.to(home) for wire, home in zip(self._pipeline.finish(), self._homes, strict=False)]
        except PeerLost as error:
            self._break_off(error)

    def tail(self, tail: Tail, position: Position) -> Tail:
        assert self._pipeline is not None
        heard = self._link.heard
        if heard.ends(self._generation):
            raise GenerationEnded(f"generation {self._generation} is over")
        mine = {
            "generation": self._generation[0] << 32 | self._generation[1],
            "position": position.lineage << 48 | position.version << 8 | position.attempt,
            "deal": self._deal_check,
            "seen": heard.seen,
        }
        for name, value in mine.items():
            tail.members[name][self.rank] = value
        self._dirty = True
        try:
            self._pipeline.exchange(torch.from_numpy(tail.vector))
        except PeerLost as error:
            self._break_off(error)
        self._dirty = False
        return tail

    def unsound(self, reason: str) -> None:
        raise ReductionError(f"the step is not taken: {reason}")

    def name_of(self, rank: int) -> str:
        assert self._view is not None
        return f"sphere {self._view.members[rank].path}"

    # ------------------------------------------------------------ orders and reports

    def wanted(self, number: int) -> Wanted:
        if number == 0:
            return Wanted()
        order = self._link.heard.orders[number - 1]
        return Wanted(order.number, order.paused, order.stopped, order.learning_rate)

    def wait_while_paused(self, in_force: Wanted) -> Wanted:
        while in_force.paused and not in_force.stopped:
            self._await(partial(self._order_or_newer, in_force.number + 1), "with an order")
            if self._link.heard.ends(self._generation):
                raise GenerationEnded(f"generation {self._generation} is over")
            in_force = self.wanted(in_force.number + 1)
            self._link.stand(in_force=in_force.number)
        return in_force

    def _order_or_newer(self, number: int, heard: Heard) -> bool | None:
        return heard.seen >= number or heard.ends(self._generation) or None

    def progress(self, position: Position, phase: str, done: int = 0, dealt: int = 0) -> None:
        if self._link.heard.ends(self._generation):  # between micro-batches the sums are whole
            raise GenerationEnded(f"generation {self._generation} is over")
        if self._generation != NO_GENERATION:
            self._link.stand(phase=Phase(phase), position=WirePosition(*position), units_done=done, units_dealt=dealt)

    def report(self, report: StepReport) -> None:
        if self._groups is not None and report.seconds:  # a step made it, skipped or not
            self._meter.made_version(self._groups.plans, self._gradient_bytes)
        self._link.send(
            Row(
                generation=self._generation, version=report.version, loss=report.loss,
                learning_rate=report.learning_rate, grad_norm=report.grad_norm, weight=report.weight,
                samples=report.samples, attempts=report.attempts, skipped=report.skipped, in_force=report.in_force,
                check=report.check, digest=report.digest, epoch=report.epoch, eval_loss=report.eval_loss,
                suspect=report.suspect, trouble=report.trouble, clip_ratio=report.clip_ratio,
                slowest=self._path_of(report.slowest), seconds=report.seconds, own_units=report.own_units,
                own_samples=report.own_samples, own_weight=report.own_weight, traffic=self._meter.lines(),
                round_trips=self._pipeline.round_trips() if self._pipeline else {},
            )
        )  # fmt: skip
        self._link.stand(in_force=report.in_force)  # after the row: the order holds from that version, not before

    def _path_of(self, rank: int | None) -> str | None:
        return self._view.members[rank].path if self._view is not None and rank is not None else None

    def closed(self, closing: Closing, model: nn.Module) -> None:
        self._last = (closing, model)
        self._link.stand(phase=Phase.CLOSING)

    def leave(self) -> None:
        """The script has ended: keep the model, tell control, and stay until it says that the run is over.

        Raises StateError if nothing was trained, RunEnded if the run failed. With control dead it leaves by itself.
        """
        if self.finish is not None:
            self.finish()
        if self._last is None or self._groups is None:
            raise StateError("the script ended without training: call Trainer(...).train() [LW803]")
        closing, model = self._last
        save_s = self._save(model) if self.first else 0.0
        self._link.send(
            Closed(
                generation=self._generation, version=closing.version, digest=closing.digest,
                eval_loss=closing.eval_loss, eval_weight=closing.eval_weight,
                traffic=self._meter.lines(), micro_batches=closing.micro_batches,
                busy_s=closing.busy_s, save_s=save_s, reason=closing.reason,
            )
        )  # fmt: skip
        try:
            end = self._await(lambda heard: heard.end, "to Closed")
        except ControlSilent as error:
            log.warning("%s; the last version is agreed, so this sphere leaves", error)
            return
        self._leave_generation()
        self._link.stand(phase=Phase.CLOSED)
        if end.status == "failed":
            raise RunEnded(end.status, end.reason)

    def _save(self, model: nn.Module) -> float:
        """Write the model; how many seconds that took."""
        began_s = time.perf_counter()
        path = self._keep(model)
        save_s = time.perf_counter() - began_s
        if self.kept is not None:
            self.kept(path)
        return save_s

    def _await(self, pick: Callable[[Heard], T | None], to: str) -> T:
        """Wait as long as control lives: how long a roll call may take is control's to judge."""
        silent_s = 0.0
        while True:
            tick = self._link.heard.tick
            try:
                return self._link.wait(pick, self._silence_s, to)
            except ControlSilent:
                silent_s = silent_s + self._silence_s if self._link.heard.tick == tick else 0.0
                if silent_s >= CONTROL_GONE_S:
                    raise


def _tuple(position: WirePosition) -> tuple[int, int, int]:
    return position.lineage, position.version, position.attempt
