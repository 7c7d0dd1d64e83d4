"""`lightwatch join`: this machine's spheres of a run whose control is elsewhere, kept alive until the run is over."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from ..corpus import refuse_absent
from ..errors import ConfigError
from .crew import Crew, Duty
from .folder import RunFolder
from .script import check_script
from .signals import Signals
from .terminal import Terminal
from .view import PlainView

TICK_S = 0.1
SPHERES_MOST = 144


def join(arguments: argparse.Namespace) -> int:
    """Enrol this machine unless it was before, then keep its spheres; the exit code: 0 the run is over or this machine
    was asked to leave, 1 it failed, 2 the user's input is to blame. Raises ConfigError."""
    from control.errors import ControlError
    from spheres.entry import enter_by_line
    from spheres.torchrun import host_path

    terminal = Terminal(quiet=arguments.quiet)
    if arguments.spheres is not None and not 1 <= arguments.spheres <= SPHERES_MOST:
        raise ConfigError(f"--spheres must be 1 to {SPHERES_MOST}, got {arguments.spheres} [LW002]")
    script = (check_script(arguments.script[0]), *arguments.script[1:]) if arguments.script else ()
    if arguments.data:
        refuse_absent(arguments.data)  # before the line is used
    place = host_path(os.environ) if arguments.at is None else arguments.at
    try:
        _check_place(place)
        entry = enter_by_line(arguments.line, arguments.dir, arguments.data)
        _check_interface(entry.control, arguments.interface)
    except ControlError as error:
        raise ConfigError(str(error)) from None
    threads = entry.run.training.threads
    count = arguments.spheres or spheres_for(threads)
    paths = [f"{place}/{number}" for number in range(count)]
    refuse_kept(entry.folder, paths)
    duty = Duty(entry.control, threads, paths=tuple(paths), script=script, key=entry.key, interface=arguments.interface)
    several = f"spheres {paths[0]} to {paths[-1]}" if count > 1 else f"sphere {paths[0]}"
    terminal.say(f"run {entry.run_id}, control at {entry.control}: {several} start here, in {entry.folder}")
    return Machine(RunFolder(entry.folder, entry.run_id), terminal).run(paths, duty)


def spheres_for(threads: int) -> int:
    """How many a machine has by default: one per GPU, else one per `threads` cores. Counts GPUs without torch."""
    gpus = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(gpus or max(1, cores // threads), SPHERES_MOST)


def _gpus() -> int:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([each for each in shown.split(",") if each.strip() not in ("", "-1")])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


def _check_place(place: str) -> None:
    from control.tree import check_path

    check_path(place)


def _check_interface(control: str, interface: str) -> None:
    """Raise ConfigError now for what each sphere would find out."""
    from spheres.address import own_address

    own_address(control, interface)


def refuse_kept(folder: Path, paths: list[str]) -> None:
    """Raise ConfigError if another `join` keeps a sphere there: the two would end each other's."""
    from spheres import pids

    for path in paths:
        kept = pids.read(folder / "spheres" / path / "supervisor.pid")
        if kept is not None and kept[1] and pids.start_time(kept[0]) == kept[1]:
            raise ConfigError(
                f"sphere {path} is kept alive by pid {kept[0]} on this machine already; choose another place with --at "
                "[LW405]"
            )


class Machine:
    """The processes of this machine. `run` blocks until all are gone."""

    def __init__(self, folder: RunFolder, terminal: Terminal) -> None:
        self._folder = folder
        self._terminal = terminal
        self._crew = Crew(folder, PlainView(terminal, -1, 1))
        self._told = 0

    def run(self, paths: list[str], duty: Duty) -> int:
        """The first signal asks the spheres to leave in good order, a second one ends them at once."""
        with Signals() as signals:
            try:
                self._crew.open(duty.threads)
                for path in paths:
                    self._crew.start(path, duty)
                told = 0
                while self._crew.left:
                    signals.wait(self._pause_s(), *self._crew.descriptors)
                    self._crew.look(time.monotonic(), self._crew.working, needed=not told)
                    self._tell_troubles()
                    if len(signals.received) > 1:
                        break
                    if signals.received and not told:
                        told = signals.received[0]
                        self._terminal.say(f"{signal.Signals(told).name}: the spheres here leave the run")
                        self._crew.leave()
            finally:
                left = self._crew.left
                self._crew.end()
        return self._code(left, signals.received)

    def _tell_troubles(self) -> None:
        """At once, and not when the last sphere here has ended: control, which knows them too, is elsewhere."""
        for trouble in self._crew.troubles[self._told :]:
            self._terminal.complain(trouble)
        self._told = len(self._crew.troubles)

    def _pause_s(self) -> float:
        now = time.monotonic()
        return max(0.0, min([TICK_S, *(at_s - now for at_s in self._crew.again_at_s)]))

    def _code(self, left: int, received: list[int]) -> int:
        if left:
            self._terminal.tell("ended at once by a second signal")
            return 130 if signal.SIGINT in received else 1
        worst = max((code if code >= 0 else 1 for code in self._crew.codes), default=1)
        if worst and not self._told:
            self._terminal.complain("the run failed; control says why [LW410]")
        elif not worst:
            self._terminal.tell("the spheres here have left the run" if received else "the run is over")
        return worst
