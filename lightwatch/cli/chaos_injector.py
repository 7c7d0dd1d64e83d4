"""Does what the plan says to a run that trains, and writes down what it did. It decides nothing.

A fault that is due waits while its target does not live, or while it would take the last holder of the newest state.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..manifest import MANIFEST
from .chaos_measure import Struck
from .chaos_plan import Fault, may_strike
from .chaos_processes import Process, Roster
from .chaos_records import Made, Makers
from .folder import RunFolder, read_json
from .processes import environment

JOINER_ENDS_S = 5.0
CHECKPOINTS = "checkpoints"


def holders_of(last: Iterable[Made], alive: dict[str, int]) -> set[str]:
    """The spheres that hold the newest state there is, by their newest lines; alive: path -> pid of those that can act.

    One that stands a version behind in the same generation has the sums, and follows without asking for a state.
    """
    living = [made for made in last if alive.get(made.path) == made.pid]
    newest = max(living, key=lambda made: (made.version, made.generation), default=None)
    if newest is None:
        return set()
    return {
        made.path
        for made in living
        if made.version == newest.version
        or (made.generation == newest.generation and made.version == newest.version - 1)
    }


def is_saving(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written: a folder has files, and its manifest is not there, or about to be."""
    try:
        return any(
            names and (MANIFEST not in names or any(name.startswith(".") for name in names))
            for folder in checkpoints.iterdir()
            for names in [os.listdir(folder)]
        )
    except OSError:  # none yet, or one that is being removed
        return False


@dataclass
class _Sleeper:
    process: Process
    until_s: float
    place: int
    """Of its fault in `struck`."""


class Injector:
    """One run's faults. Call `look` often; `close` wakes who sleeps and ends the joiners.

    step_s: what a step of the clean run takes. tell: one line for each fault.
    """

    def __init__(
        self,
        plan: tuple[Fault, ...],
        folder: RunFolder,
        paths: tuple[str, ...],
        step_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self.pending = list(plan)
        self.struck: list[Struck] = []
        self.paths = list(paths)
        self.roster = Roster(folder)
        self.makers = Makers(folder)
        self._folder = folder
        self._step_s = step_s
        self._tell = tell
        self._due_s: dict[Fault, float] = {}
        self._sleepers: list[_Sleeper] = []
        self._awaited: dict[int, tuple[str, Process]] = {}
        self._joiners: list[subprocess.Popen[bytes]] = []

    def look(self) -> list[Made]:
        """One look at the run: who is there, who is to be woken, what is due. The lines that spheres have written."""
        self.roster.look(self.paths)
        lines = self.makers.read(self.paths)
        now_s = time.monotonic()
        self._wake(now_s)
        self._welcome()
        self._note_crash()
        for fault in [fault for fault in self.pending if self._is_due(fault, now_s)]:
            if may_strike(fault, self._holders()) and self._strike(fault):
                self.pending.remove(fault)
        return lines

    def close(self) -> None:
        """Wake who sleeps, end the joiners' supervisors where they did not leave by themselves."""
        self._wake(float("inf"))
        for joiner in self._joiners:
            assert joiner.stdin is not None
            joiner.stdin.close()
            try:
                joiner.wait(JOINER_ENDS_S)
            except subprocess.TimeoutExpired:
                joiner.kill()
                joiner.wait()
        self.makers.close()

    # ---------------------------------------------------------------- when

    def _is_due(self, fault: Fault, now_s: float) -> bool:
        if fault not in self._due_s and self.makers.version >= fault.version:
            self._due_s[fault] = now_s + fault.part * self._step_s
        return self._due_s.get(fault, float("inf")) <= now_s

    def _holders(self) -> set[str]:
        asleep = {sleeper.process for sleeper in self._sleepers}
        alive = {
            path: worker.pid for path in self.paths if (worker := self.roster.worker(path)) and worker not in asleep
        }
        return holders_of(self.makers.last.values(), alive)

    # ---------------------------------------------------------------- what

    def _strike(self, fault: Fault) -> bool:
        """Do it; False: whom it is meant for does not live now."""
        if fault.kind == "join":
            return self._join(fault)
        if fault.kind == "save-kill" and not is_saving(self._folder.path / CHECKPOINTS):
            return False
        victims = self._victims(fault)
        if victims is None:
            return False
        is_stop = fault.kind.endswith("-stop")
        if is_stop and any(sleeper.process in victims.values() for sleeper in self._sleepers):
            return False
        at = time.time()
        for role, victim in victims.items():
            if not (fault.kind == "supervisor-kill" and role == "sphere"):  # dies with its supervisor, or so it should
                victim.send(signal.SIGSTOP if is_stop else signal.SIGKILL)
        pids = {role: victim.pid for role, victim in victims.items()}
        self._wrote(Struck(fault.kind, fault.target, self.makers.version, at, pids))
        for role in {"control", "template"} & set(victims) if not is_stop else ():
            self._awaited[len(self.struck) - 1] = (role, victims[role])
        if is_stop:
            (victim,) = victims.values()
            self._sleepers.append(_Sleeper(victim, time.monotonic() + fault.for_s, len(self.struck) - 1))
        return True

    def _victims(self, fault: Fault) -> dict[str, Process] | None:
        """By role, the spheres of a blackout by path; None unless all that are needed live."""
        if fault.kind == "blackout":
            workers = {path: self.roster.worker(path) for path in self.paths}
            return {path: worker for path, worker in workers.items() if worker is not None} or None
        role, _, what = fault.kind.partition("-")
        if role == "save":
            role = "control" if fault.target == "control" else "sphere"
        roles = {"both": ("sphere", "control"), "supervisor": ("supervisor", "sphere")}.get(role, (role,))
        if what == "stop":
            roles = (role,)
        found = {each: self.roster.of(each, fault.target) for each in roles}
        living = {each: process for each, process in found.items() if process is not None}
        return living if len(living) == len(roles) else None

    def _join(self, fault: Fault) -> bool:
        """Start one more supervisor; control admits its sphere as it does any other."""
        address = (read_json(self._folder.address) or {}).get("address")
        if not isinstance(address, str):
            return False
        arguments = ["--dir", str(self._folder.path), "--control", address, "--path", fault.target]
        socket = self.roster.template_socket()
        arguments += ["--template", socket] if socket else []
        at = time.time()
        with self._folder.log("host").open("ab") as log:
            joiner = subprocess.Popen(
                [sys.executable, "-P", "-m", "spheres", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                env=environment(1),
            )
        self._joiners.append(joiner)
        self.paths.append(fault.target)
        self._wrote(Struck(fault.kind, fault.target, self.makers.version, at, {"supervisor": joiner.pid}))
        return True

    # ---------------------------------------------------------------- afterwards

    def _wake(self, now_s: float) -> None:
        for sleeper in [each for each in self._sleepers if each.until_s <= now_s]:
            self._sleepers.remove(sleeper)
            sleeper.process.send(signal.SIGCONT)
            self.struck[sleeper.place] = replace(self.struck[sleeper.place], until=time.time())

    def _welcome(self) -> None:
        """Note when control or the template that was killed has a successor: its file was written then."""
        for place, (role, former) in list(self._awaited.items()):
            now = self.roster.of(role, "")
            if now is not None and now != former:
                file = self._folder.address if role == "control" else self._folder.template_pid
                self.struck[place] = replace(self.struck[place], back_at=_written_at(file))
                del self._awaited[place]

    def _note_crash(self) -> None:
        """A crash point that has killed is a fault too."""
        if any(struck.kind == "crash" for struck in self.struck):
            return
        from control.crash import MARK

        mark = read_json(self._folder.path / MARK)
        if mark is None:
            return
        who, pids = str(mark["who"]), {"crash": int(mark["pid"])}
        if who in self.makers.last:
            pids["sphere"] = self.makers.last[who].pid
        self._wrote(Struck("crash", who, self.makers.version, float(mark["at"]), pids))
        if who in ("control", "template"):
            self._awaited[len(self.struck) - 1] = (who, Process(int(mark["pid"]), 0))

    def _wrote(self, struck: Struck) -> None:
        self.struck.append(struck)
        self._tell(f"version {struck.version}: {struck.kind} {struck.target}")


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()
