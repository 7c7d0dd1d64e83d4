"""A run on a tree: start control, a template and a supervisor per sphere, keep them alive, and leave nothing behind.

The launcher decides nothing about training: control does, and its ledger says how the run ended. Here is only the life
of processes: who has ended and is started anew, what a signal means, when waiting any longer is of no use.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from ..errors import ConfigError, LightwatchError, coded
from .comings import Comings
from .crew import Crew, Duty
from .invite import join_line
from .kept import Kept
from .processes import Child, last_line, spoken_end
from .reach import seen_from_afar
from .record import is_over, spawns
from .rows import Tail
from .settings import Point, Settings
from .signals import Signals
from .verdict import Do, Ended, Seen, decide
from .view import View

TICK_S = 0.1
SPAWN_LOOK_S = 0.5
"""How often the ledger is read for who is to be started anew, once a sphere has left a run that goes on."""
DONE, USAGE = 0, 2

log = logging.getLogger("lightwatch.launch")


def _resume_of(point: Point | None) -> str:
    """How control is to go on."""
    return "" if point is None else "on" if point.lineage is None else "anew"


class Launch:
    """One run's processes. `run` blocks until all of them are gone, whatever happens."""

    def __init__(self, settings: Settings, view: View, signals: Signals) -> None:
        self._settings = settings
        self._folder = settings.folder
        self._view = view
        self._signals = signals
        self._tail = Tail(settings.folder.metrics)
        self._stop_ordered = self._stop_told = False
        self._trouble_at_s: float | None = None
        self._amiss = ""
        self._version = max((row["version"] for row in self._tail.read()), default=-1)  # told already, by who made it
        self._control_lost_at_s: float | None = None
        self._crew = Crew(settings.folder, view)
        self._spawned = spawns(settings.folder)
        self._spawns_read_s = 0.0
        self._control: Kept | None = None
        self._control_process: Any = None
        self._comings: Comings | None = None

    def run(self) -> Ended:
        """Start, watch, end. Raises ConfigError if control refuses the address, LightwatchError if it can't start."""
        try:
            if self._settings.paths:
                self._crew.open(self._settings.run.training.threads)
            self._start_control()
            if self._signals.received:
                return Ended(before_it_began=True)
            self._view.opened(self._control_process.address, self._folder.client_key)
            if self._settings.machines:
                self._invite()
            if not self._settings.paths:
                self._tell_comings()
            duty = self._duty()
            for path in self._settings.paths:
                self._crew.start(path, duty)
            ended = self._watch()
            self._view.rows(self._tail.read())
            control_restarts = self._control.restarts if self._control else 0
            return replace(ended, restarts=self._crew.restarts, control_restarts=control_restarts)
        finally:
            self._end_all()
            self._tail.close()
            if self._comings is not None:
                self._comings.close()

    # ---------------------------------------------------------------- beginnings

    def _start_control(self) -> None:
        """Start control and wait until it is bound."""
        from control.client import ControlProcess
        from control.errors import ControlError, NoAnswer

        of = self._settings.run.control
        try:
            self._control_process = ControlProcess(
                self._folder.path,
                run_id=self._folder.run_id,
                tree=of.tree,
                listen=of.listen,
                silence_s=of.silence_s,
                log=self._folder.log("control"),
                resume=_resume_of(self._settings.point),
            )
        except NoAnswer as error:
            raise LightwatchError(str(error)) from None
        except ControlError as error:  # another program took the port after it was looked at
            raise ConfigError(str(error)) from None
        self._control = Kept(self._control_child(), self._start_control_again, self._is_controls_last)

    def _start_control_again(self) -> Child:
        """The next one takes up the ledger, at the same address: the spheres look for it there."""
        self._control_process.begin_again(adopt=not self._folder.ledger.exists())
        self._stop_ordered = False  # it may have died before it wrote the order down
        return self._control_child()

    def _control_child(self) -> Child:
        log.info("control: pid %d at %s", self._control_process.pid, self._control_process.address)
        return Child("control", self._control_process.process, self._folder.log("control"))

    def _is_controls_last(self, code: int) -> bool:
        return code in (DONE, USAGE) or is_over(self._folder)

    def _invite(self) -> None:
        line = join_line(self._folder.path, self._settings.machines)
        several = f"{self._settings.machines} machines" if self._settings.machines > 1 else "one machine"
        self._view.printed(f"on each machine:\n\n  lightwatch join '{line}'\n")
        self._view.note(f"(a secret, good for an hour and {several}; `lightwatch keys token` prints another)")

    def _tell_comings(self) -> None:
        """All spheres are elsewhere: nobody here would see them come and go."""
        from control.tree import wait_for

        address, expected = self._control_process.address, wait_for(self._settings.tree)
        self._comings = Comings(address, self._folder.client_key, expected, self._view.note)

    def _duty(self) -> Duty:
        return Duty(
            seen_from_afar(self._control_process.address),
            self._settings.run.training.threads,
            paths=self._settings.paths,
            profile=self._settings.profile,
            script=self._settings.script,
        )

    # ---------------------------------------------------------------- watching

    def _watch(self) -> Ended:
        """Look, decide, act, until all have ended or must."""
        while True:
            self._signals.wait(self._pause_s(), *self._crew.descriptors)
            rows = self._tail.read()
            self._version = max([self._version, *(row["version"] for row in rows)])
            self._view.rows(rows)
            seen = self._look()
            do, reason = decide(seen, time.monotonic())
            if do is Do.ORDER_STOP:
                if not self._stop_told:
                    when = "after this step" if self._version >= 0 else "before its first step"
                    self._view.note(f"{reason}: the run stops {when}; a second one ends it at once")
                self._stop_ordered = self._stop_told = True
                if self._control is not None:
                    self._control.child.ask_to_stop()
            elif do is Do.FINISH:
                return Ended(self._why())
            elif do is Do.KILL:
                log.info("ending all processes: %s", reason)
                at_once = len(self._signals.received) > 1
                return Ended(reason if at_once or not self._why() else self._why(), at_once)

    def _why(self) -> str:
        """What went wrong first, as far as it was seen here."""
        return self._crew.amiss or self._amiss

    def _pause_s(self) -> float:
        """Until somebody's next life is due, or a tick."""
        now = time.monotonic()
        due = [*self._crew.again_at_s, *([self._control.again_at_s] if self._control else [])]
        return max(0.0, min([TICK_S, *(at_s - now for at_s in due if at_s is not None)]))

    def _look(self) -> Seen:
        """What is so now, once who ended unasked was started anew."""
        now = time.monotonic()
        self._look_after_control(now)
        control_code = self._control.code if self._control else None
        needed = control_code is None
        self._crew.look(now, self._version, needed=needed)
        if needed and self._crew.done and not self._stop_ordered:
            self._spawn(now)
        self._reap_orphans()
        left = self._crew.left
        given_up = any(self._crew.codes) and self._version < 0
        if self._trouble_at_s is None and (not needed or (self._crew.paths and not left) or given_up):
            self._trouble_at_s = now
        return Seen(
            signals=tuple(self._signals.received),
            stop_ordered=self._stop_ordered,
            control_ready=self._control_lost_at_s is None,
            control_code=control_code,
            spheres_left=left,
            all_left=not left and len(self._crew.done) == len(self._crew.paths),
            trouble_at_s=self._trouble_at_s,
            begun=self._crew.begun,
            trained=self._version >= 0,
        )

    def _spawn(self, now_s: float) -> None:
        """Start those anew who had left and are wanted again."""
        if now_s - self._spawns_read_s < SPAWN_LOOK_S:
            return
        self._spawns_read_s = now_s
        ordered = spawns(self._folder)
        for path in self._crew.done:
            if ordered[path] > self._spawned[path]:
                self._spawned[path] = ordered[path]
                self._view.note(f"sphere {path} is started again, by order")
                self._crew.start(path, self._duty())

    def _look_after_control(self, now_s: float) -> None:
        control = self._control
        if control is None:
            return
        code = control.look(now_s, self._version)
        if code is not None and control.code is None:
            self._control_lost_at_s = now_s
            self._view.note(f"control {spoken_end(code)}; it is started anew, and the spheres go on meanwhile")
        elif code:  # where the ledger has no end, this is why; spheres that ended before were only told to
            said = last_line(control.child.log) if code > 0 else ""  # killed, it had no last word
            sentence = f"control (pid {control.child.pid}) {spoken_end(code)}{': ' if said else ''}{said}"
            self._amiss = coded(sentence, "LW502")
        elif self._control_lost_at_s is not None and control.again_at_s is None and self._control_process.is_bound:
            self._view.note(f"control is back, {now_s - self._control_lost_at_s:.1f} s later")
            self._control_lost_at_s = None

    # ---------------------------------------------------------------- the end

    def _reap_orphans(self) -> bool:
        """Workers whose template is gone are ours; whether any child is left."""
        from spheres import pids

        control = self._control.child if self._control is not None else None
        return pids.reap_orphans(self._crew.pids() | ({control.pid} if control and control.code() is None else set()))

    def _end_all(self) -> None:
        """Kill all at once, and wait until they are gone."""
        self._crew.kill()
        if self._control is not None:
            self._control.child.end()
        self._crew.end()
