"""A run on a tree: start control, a template and a supervisor per sphere, keep them alive, and leave nothing behind.

The launcher decides nothing about training: control does, and its ledger says how the run ended. Here is only the life
of processes: who has ended and is started anew, what a signal means, when waiting any longer is of no use.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError, LightwatchError, coded
from .kept import Kept
from .processes import Child, is_stopped, last_line, spoken_end, start_child
from .record import is_over
from .rows import Tail
from .settings import Point, Settings
from .signals import Signals
from .verdict import Do, Ended, Seen, decide
from .view import View

TICK_S = 0.1
ORPHANS_MOST_S = 3.0
"""How long the last processes may take to be gone, that were killed by the kernel when their supervisors ended."""
STOPPED_MOST_S = 3.0
"""Once control has ended: a worker that is stopped for a moment may be the one that writes the model."""
DONE, FAILED, USAGE = FINAL = (0, 1, 2)

log = logging.getLogger("lightwatch.launch")


def _resume_of(point: Point | None) -> str:
    """How control is to go on."""
    return "" if point is None else "on" if point.lineage is None else "anew"


@dataclass
class Sphere:
    """What is known of one path: its supervisor, and its worker by the supervisor's word."""

    kept: Kept
    pid: int = 0
    unfinished: bytes = b""
    talks: bool = True
    lost_at_s: float | None = None
    stopped_at_s: float | None = None
    restarts: int = 0


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
        self._begun = False
        self._version = -1
        self._socket = ""
        self._control_lost_at_s: float | None = None
        self._template: Kept | None = None
        self._control: Kept | None = None
        self._control_process: Any = None
        self._spheres: dict[str, Sphere] = {}

    def run(self) -> Ended:
        """Start, watch, end. Raises ConfigError if control refuses the address, LightwatchError if it can't start."""
        from spheres import handover, pids

        pids.adopt_orphans()
        self._socket = handover.new_name()
        try:
            self._template = Kept(self._start_template(), self._start_template, lambda _code: False)
            self._start_control()
            if self._signals.received:
                return Ended(before_it_began=True)
            self._view.opened(self._control_process.address, self._folder.client_key)
            for path in self._settings.paths:
                self._keep_sphere(path)
            ended = self._watch()
            self._view.rows(self._tail.read())
            restarts = {path: each.restarts for path, each in self._spheres.items() if each.restarts}
            return replace(ended, restarts=restarts, control_restarts=self._control.restarts if self._control else 0)
        finally:
            self._end_all()
            self._tail.close()

    # ---------------------------------------------------------------- beginnings

    def _start_template(self) -> Child:
        from spheres import pids

        threads = self._settings.run.training.threads
        arguments = ["--dir", str(self._folder.path), "--socket", self._socket]
        child = start_child("spheres.template", arguments, self._folder.log("host"), threads)
        pids.write(self._folder.template_pid, child.pid)
        log.info("template: pid %d", child.pid)
        return child

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

    def _keep_sphere(self, path: str) -> None:
        def start() -> Child:
            return self._start_supervisor(path)

        self._spheres[path] = Sphere(Kept(start(), start, lambda code: code in FINAL))

    def _start_supervisor(self, path: str) -> Child:
        arguments = ["--dir", str(self._folder.path), "--control", self._control_process.address, "--path", path]
        arguments += ["--template", self._socket]
        if path == self._settings.paths[0]:
            arguments.append("--shown")
        if self._settings.profile:
            arguments.append("--profile")
        if self._settings.script:
            script, *its_own = self._settings.script
            arguments += ["--script", script, *its_own]
        threads = self._settings.run.training.threads
        child = start_child("spheres", arguments, self._folder.log("host"), threads, reports=True)
        log.info("supervisor of sphere %s: pid %d", path, child.pid)
        return child

    # ---------------------------------------------------------------- watching

    def _watch(self) -> Ended:
        """Look, decide, act, until all have ended or must."""
        while True:
            self._signals.wait(
                self._pause_s(), *(each.kept.child.stdout.fileno() for each in self._spheres.values() if each.talks)
            )
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
                return Ended(self._amiss)
            elif do is Do.KILL:
                log.info("ending all processes: %s", reason)
                at_once = len(self._signals.received) > 1
                return Ended(reason if at_once or not self._amiss else self._amiss, at_once)

    def _pause_s(self) -> float:
        """Until somebody's next life is due, or a tick."""
        now = time.monotonic()
        due = [each.again_at_s - now for each in self._kept() if each.again_at_s is not None]
        return max(0.0, min([TICK_S, *due]))

    def _kept(self) -> list[Kept]:
        """Supervisors, template, control, as far as they were ever started."""
        kept = [*(each.kept for each in self._spheres.values()), self._template, self._control]
        return [each for each in kept if each is not None]

    def _look(self) -> Seen:
        """What is so now, once who ended unasked was started anew."""
        now = time.monotonic()
        self._look_after_control(now)
        control_code = self._control.code if self._control else None
        needed = control_code is None
        if self._template is not None:
            self._template.look(now, self._version, anew=needed)
        for path, sphere in self._spheres.items():
            self._read(path, sphere)
            if not needed:
                self._end_if_stopped(sphere, now)
            code = sphere.kept.look(now, self._version, anew=needed)
            if code is not None:
                self._read(path, sphere)
                self._supervisor_ended(path, sphere, code, now)
            elif not sphere.talks and sphere.kept.child.code() is None:
                sphere.talks = True  # a new one
        self._reap_orphans()
        left = [each for each in self._spheres.values() if each.kept.code is None]
        all_left = not left and all(each.kept.code == DONE for each in self._spheres.values())
        given_up = any(each.kept.code for each in self._spheres.values()) and self._version < 0
        if self._trouble_at_s is None and (not needed or not left or given_up):
            self._trouble_at_s = now
        return Seen(
            signals=tuple(self._signals.received),
            stop_ordered=self._stop_ordered,
            control_ready=self._control_lost_at_s is None,
            control_code=control_code,
            spheres_left=len(left),
            all_left=all_left,
            trouble_at_s=self._trouble_at_s,
            begun=self._begun,
            trained=self._version >= 0,
        )

    def _end_if_stopped(self, sphere: Sphere, now_s: float) -> None:
        """A worker that is stopped hears of no end: nobody waits for what it would do, unless it goes on at once."""
        if not is_stopped(sphere.pid):
            sphere.stopped_at_s = None
        elif sphere.stopped_at_s is None:
            sphere.stopped_at_s = now_s
        elif now_s - sphere.stopped_at_s > STOPPED_MOST_S:
            sphere.kept.child.kill()

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

    def _supervisor_ended(self, path: str, sphere: Sphere, code: int, now_s: float) -> None:
        log.info("the supervisor of sphere %s (pid %d) %s", path, sphere.kept.child.pid, spoken_end(code))
        sphere.talks, sphere.unfinished = False, b""
        if sphere.kept.code is None:
            sphere.restarts += 1
            if sphere.lost_at_s is None:
                self._view.note(f"sphere {path} was lost, its supervisor {spoken_end(code)}; both are started anew")
                sphere.lost_at_s = now_s
        elif code not in FINAL and not self._amiss:
            what = f"the supervisor of sphere {path} (pid {sphere.kept.child.pid}) {spoken_end(code)}"
            self._amiss = coded(what, "LW410")

    # ---------------------------------------------------------------- what supervisors say

    def _read(self, path: str, sphere: Sphere) -> None:
        """Take in what the supervisor has reported so far."""
        stdout = sphere.kept.child.stdout
        while sphere.talks and not stdout.closed:
            piece = stdout.read(1 << 16)
            if piece is None:
                return
            sphere.talks = bool(piece)
            *lines, sphere.unfinished = (sphere.unfinished + piece).split(b"\n")
            for line in lines:
                try:
                    item = json.loads(line)
                except ValueError:
                    log.warning("the supervisor of sphere %s said: %r", path, line[:200])
                    continue
                self._heed(path, sphere, item)

    def _heed(self, path: str, sphere: Sphere, item: dict[str, Any]) -> None:
        if "printed" in item:
            self._view.printed(item["text"])
        elif "started" in item or "again" in item:
            self._begun = True
            sphere.restarts += "again" in item
            sphere.pid = item["pid"]
            log.info("sphere %s: pid %d", path, item["pid"])
        elif "working" in item and sphere.lost_at_s is not None:
            self._view.note(f"sphere {path} is at work again, {time.monotonic() - sphere.lost_at_s:.1f} s later")
            sphere.lost_at_s = None
        elif "leaving" in item:
            self._view.note(f"sphere {path} leaves, asked to by {item['why']}; the run goes on without it")
        elif "gave_up" in item and not self._amiss:
            self._amiss = item["why"]
        elif "exited" in item:
            self._worker_ended(path, sphere, item)

    def _worker_ended(self, path: str, sphere: Sphere, item: dict[str, Any]) -> None:
        code = item["code"] if item["signal"] is None else -item["signal"]
        how = spoken_end(code) if code is not None else "ended"
        log.info("sphere %s (pid %d) %s", path, item["pid"], how)
        if not item["final"]:
            if sphere.lost_at_s is None and (self._control is None or self._control.code is None):
                self._view.note(f"sphere {path} {how}; it is started anew")
                sphere.lost_at_s = time.monotonic()
        elif code and not self._amiss:
            said = last_line(self._folder.log(path), records=False)
            what = f"sphere {path} (pid {item['pid']}) {how}"
            self._amiss = coded(f"{what}: {said}" if said else what, "LW406")

    # ---------------------------------------------------------------- the end

    def _reap_orphans(self) -> bool:
        """Workers whose template is gone are ours; whether any child is left."""
        from spheres import pids

        return pids.reap_orphans({each.child.pid for each in self._kept() if each.child.code() is None})

    def _end_all(self) -> None:
        """Kill all at once; workers die with their supervisors, by the kernel, and are waited for too."""
        from spheres import pids

        children = [each.child for each in self._kept()]
        for child in children:
            child.kill()
        for child in children:
            child.end()
        deadline = time.monotonic() + ORPHANS_MOST_S
        while pids.reap_orphans(()) and time.monotonic() < deadline:
            self._signals.wait(TICK_S / 10)
        self._folder.forget_pids(self._settings.paths)
