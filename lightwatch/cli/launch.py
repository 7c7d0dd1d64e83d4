"""A run on a tree: start control and the host of the spheres, watch both, and leave nothing behind.

The launcher decides nothing about training: control does, and its ledger says how the run ended. Here is only the life
of processes: who has ended, what a signal means, when waiting any longer is of no use.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass

from ..errors import ConfigError, LightwatchError, coded
from .processes import Child, last_line, spoken_end, start_child
from .rows import Tail
from .settings import Settings
from .signals import Signals
from .verdict import Do, Seen, decide
from .view import View

TICK_S = 0.1

log = logging.getLogger("lightwatch.launch")


@dataclass(frozen=True)
class Ended:
    """How a run ended as the launcher saw it. reason: its own sentence, for where the ledger has none."""

    reason: str = ""
    at_once: bool = False
    before_it_began: bool = False


class Launch:
    """One run's processes. `run` blocks until all of them are gone, whatever happens."""

    def __init__(self, settings: Settings, view: View, signals: Signals) -> None:
        self._settings = settings
        self._folder = settings.folder
        self._view = view
        self._signals = signals
        self._tail = Tail(settings.folder.metrics)
        self._stop_ordered = False
        self._trouble_at_s: float | None = None
        self._stopped_at_s: float | None = None
        self._amiss = ""
        self._unfinished = b""
        self._host_talks = True
        self._begun = self._trained = False
        self._codes: dict[str, int] = {}

    def run(self) -> Ended:
        """Start, watch, end. Raises ConfigError if control refuses the address, LightwatchError if it can't start."""
        with ExitStack() as stack:
            stack.callback(self._tail.close)
            control, address = self._start_control()
            stack.callback(control.end)
            if self._signals.received:
                return Ended(before_it_began=True)
            self._view.opened(address)
            host = self._start_host(address)
            stack.callback(host.end)
            ended = self._watch(control, host)
            self._view.rows(self._tail.read())
            return ended

    def _start_control(self) -> tuple[Child, str]:
        """Control's process, bound, and its address."""
        from control.client import ControlProcess
        from control.errors import ControlError, NoAnswer

        of, log_file = self._settings.run.control, self._folder.log("control")
        try:
            started = ControlProcess(
                self._folder.path,
                run_id=self._folder.run_id,
                tree=of.tree,
                listen=of.listen,
                silence_s=of.silence_s,
                log=log_file,
            )
        except NoAnswer as error:
            raise LightwatchError(str(error)) from None
        except ControlError as error:  # another program took the port after it was looked at
            raise ConfigError(str(error)) from None
        log.info("control: pid %d at %s", started.pid, started.address)
        return Child("control", started.process, log_file), started.address

    def _start_host(self, address: str) -> Child:
        arguments = ["--dir", str(self._folder.path), "--control", address]
        for path in self._settings.paths:
            arguments += ["--path", path]
        if self._settings.profile:
            arguments.append("--profile")
        if self._settings.script:
            script, *its_own = self._settings.script
            arguments += ["--script", script, *its_own]
        threads = self._settings.run.training.threads
        host = start_child("spheres", arguments, self._folder.log("host"), threads, reports=True)
        log.info("host: pid %d for %d spheres", host.pid, len(self._settings.paths))
        return host

    def _watch(self, control: Child, host: Child) -> Ended:
        """Look, decide, act, until both have ended or must."""
        descriptor = host.stdout.fileno()
        while True:
            self._signals.wait(TICK_S, *([descriptor] if self._host_talks else []))
            self._read_host(host)
            rows = self._tail.read()
            self._trained = self._trained or bool(rows)
            self._view.rows(rows)
            do, reason = decide(self._look(control, host), time.monotonic())
            if do is Do.ORDER_STOP:
                when = "after this step" if self._trained else "before its first step"
                self._view.note(f"{reason}: the run stops {when}; a second one ends it at once")
                control.ask_to_stop()
                self._stop_ordered = True
            elif do is Do.FINISH:
                self._read_host(host)
                return Ended(self._amiss)
            elif do is Do.KILL:
                log.info("ending all processes: %s", reason)
                at_once = len(self._signals.received) > 1
                return Ended(reason if at_once or not self._amiss else self._amiss, at_once)

    def _look(self, control: Child, host: Child) -> Seen:
        """What is so now; the first thing amiss is kept as a sentence."""
        control_code, host_code = control.code(), host.code()
        if host_code is None and len(self._codes) == len(self._settings.paths):
            host_code = 0  # it has only its own interpreter left to take down, which with torch takes a second
        if (control_code, host_code) != (None, None) and self._trouble_at_s is None:
            self._trouble_at_s = time.monotonic()
        if control_code:  # where the ledger has no end, this is why; spheres that ended before were only told to
            self._amiss = self._trouble_of(control, control_code)
        elif host_code and not self._amiss:
            self._amiss = self._trouble_of(host, host_code)
        return Seen(
            signals=tuple(self._signals.received),
            stop_ordered=self._stop_ordered,
            control_code=control_code,
            host_code=host_code,
            trouble_at_s=self._trouble_at_s,
            begun=self._begun,
            trained=self._trained,
            control_stopped_s=self._control_stopped_s(control),
        )

    def _control_stopped_s(self, control: Child) -> float:
        """For how long control has been a stopped process: it answers nobody, and only SIGKILL ends it."""
        if not control.is_stopped():
            self._stopped_at_s = None
            return 0.0
        if self._stopped_at_s is None:
            self._stopped_at_s = time.monotonic()
        return time.monotonic() - self._stopped_at_s

    def _trouble_of(self, child: Child, code: int) -> str:
        said = last_line(child.log) if code > 0 else ""  # killed, it had no last word
        name = "the host of the spheres" if child.name == "spheres" else child.name
        sentence = f"{name} (pid {child.pid}) {spoken_end(code)}{': ' if said else ''}{said}"
        return coded(sentence, "LW410" if child.name == "spheres" else "LW502")

    def _read_host(self, host: Child) -> None:
        """Take in what the host has reported so far."""
        while self._host_talks:
            piece = host.stdout.read(1 << 16)
            if piece is None:
                return
            self._host_talks = bool(piece)
            *lines, self._unfinished = (self._unfinished + piece).split(b"\n")
            for line in lines:
                self._heed(line)

    def _heed(self, line: bytes) -> None:
        try:
            item = json.loads(line)
        except ValueError:
            log.warning("the host of the spheres said: %r", line[:200])
            return
        if "printed" in item:
            self._view.printed(item["text"])
        elif "started" in item:
            self._begun = True
            log.info("sphere %s: pid %d", item["started"], item["pid"])
        elif "exited" in item:
            code = item["code"] if item["signal"] is None else -item["signal"]
            self._codes[item["exited"]] = code
            log.info("sphere %s (pid %d) %s", item["exited"], item["pid"], spoken_end(code))
            if code and self._trouble_at_s is None:
                self._trouble_at_s = time.monotonic()
                said = last_line(self._folder.log(item["exited"]), records=False)
                what = f"sphere {item['exited']} (pid {item['pid']}) {spoken_end(code)}"
                self._amiss = coded(f"{what}: {said}" if said and code > 0 else what, "LW406")
