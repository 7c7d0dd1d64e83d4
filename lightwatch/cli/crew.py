"""This machine's spheres of a run: a template, a supervisor each, their lives and what they say of themselves.

Nothing here decides about training. Whoever keeps a crew looks at it every tick, and ends it.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from dataclasses import dataclass
from typing import Any

from ..errors import coded
from .folder import RunFolder
from .kept import Kept
from .processes import Child, is_stopped, last_line, spoken_end, start_child
from .view import View

ORPHANS_MOST_S = 3.0
"""How long the last processes may take to be gone, that were killed by the kernel when their supervisors ended."""
STOPPED_MOST_S = 3.0
"""Once nobody is needed: a worker that is stopped for a moment may be the one that writes the model."""
REAP_S = 0.01
DONE, FAILED, USAGE = FINAL = (0, 1, 2)

log = logging.getLogger("lightwatch.launch")


@dataclass(frozen=True)
class Duty:
    """What all supervisors of a crew are started for.

    paths: of the spheres here; the first one's prints are shown. key, interface: as for `python -m spheres`.
    """

    control: str
    threads: int
    paths: tuple[str, ...] = ()
    profile: bool = False
    script: tuple[str, ...] = ()
    key: str = ""
    interface: str = ""

    def arguments(self, path: str) -> list[str]:
        """Of the supervisor at this path, but for its folder and template."""
        words = ["--control", self.control, "--path", path]
        words += ["--local-rank", str(self.paths.index(path))]
        words += ["--shown"] if path == self.paths[0] else []
        words += ["--profile"] if self.profile else []
        words += ["--key", self.key] if self.key else []
        words += ["--interface", self.interface] if self.interface else []
        return words + (["--script", *self.script] if self.script else [])


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


class Crew:
    """`open` and `start` make the processes, `look` keeps them, `end` leaves none.

    troubles: what went wrong for good, a sentence each. begun: whether a worker was ever started. working: how
    many workers have made a version.
    """

    def __init__(self, folder: RunFolder, view: View) -> None:
        self.troubles: list[str] = []
        self.begun = False
        self.working = 0
        self._folder = folder
        self._view = view
        self._needed = True
        self._leaving = False
        self._socket = ""
        self._template: Kept | None = None
        self._spheres: dict[str, Sphere] = {}

    # ---------------------------------------------------------------- beginnings

    def open(self, threads: int) -> None:
        """Start the template. It loads torch meanwhile; who asks it waits in line."""
        from spheres import handover, pids

        pids.adopt_orphans()
        self._socket = handover.new_name()

        def start() -> Child:
            arguments = ["--dir", str(self._folder.path), "--socket", self._socket]
            child = start_child("spheres.template", arguments, self._folder.log("host"), threads)
            pids.write(self._folder.template_pid, child.pid)
            log.info("template: pid %d", child.pid)
            return child

        self._template = Kept(start(), start, lambda _code: False)

    def start(self, path: str, duty: Duty) -> None:
        """Start the supervisor of one path, and keep it."""

        def start() -> Child:
            arguments = ["--dir", str(self._folder.path), "--template", self._socket, *duty.arguments(path)]
            child = start_child("spheres", arguments, self._folder.log("host"), duty.threads, reports=True)
            log.info("supervisor of sphere %s: pid %d", path, child.pid)
            return child

        self._spheres[path] = Sphere(Kept(start(), start, lambda code: code in FINAL))

    # ---------------------------------------------------------------- how it stands

    @property
    def paths(self) -> list[str]:
        return list(self._spheres)

    @property
    def amiss(self) -> str:
        """The first thing that went wrong for good; empty: nothing did."""
        return self.troubles[0] if self.troubles else ""

    @property
    def left(self) -> int:
        """How many run, or will be started anew."""
        return sum(each.kept.code is None for each in self._spheres.values())

    @property
    def done(self) -> list[str]:
        """The paths whose spheres left in good order."""
        return [path for path, each in self._spheres.items() if each.kept.code == DONE]

    @property
    def codes(self) -> list[int]:
        """The exit codes of those that ended for good; DONE for one that was asked to leave before it had begun."""
        codes = [each.kept.code for each in self._spheres.values() if each.kept.code is not None]
        return [DONE if self._leaving and code == -signal.SIGTERM else code for code in codes]

    @property
    def restarts(self) -> dict[str, int]:
        return {path: each.restarts for path, each in self._spheres.items() if each.restarts}

    @property
    def descriptors(self) -> list[int]:
        """Readable when a supervisor has something to say."""
        return [each.kept.child.stdout.fileno() for each in self._spheres.values() if each.talks]

    @property
    def again_at_s(self) -> list[float]:
        """When somebody's next life is due."""
        return [each.again_at_s for each in self._kept() if each.again_at_s is not None]

    def pids(self) -> set[int]:
        """Of the children that live."""
        return {each.child.pid for each in self._kept() if each.child.code() is None}

    def _kept(self) -> list[Kept]:
        kept = [*(each.kept for each in self._spheres.values()), self._template]
        return [each for each in kept if each is not None]

    def leave(self) -> None:
        """Ask every sphere to leave in good order."""
        self._leaving = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for each in self._spheres.values():
            if each.kept.child.code() is None:
                each.kept.child.process.send_signal(number)

    # ---------------------------------------------------------------- watching

    def look(self, now_s: float, version: int, *, needed: bool) -> None:
        """Take in what was said, and start who ended unasked anew. version: the newest that is known of.

        needed: whether the run goes on; if not, every end is for good.
        """
        self._needed = needed
        if self._template is not None:
            self._template.look(now_s, version, anew=needed)
        for path, sphere in self._spheres.items():
            self._read(path, sphere)
            if not needed:
                self._end_if_stopped(sphere, now_s)
            code = sphere.kept.look(now_s, version, anew=needed)
            if code is not None:
                self._read(path, sphere)
                self._supervisor_ended(path, sphere, code, now_s)
            elif not sphere.talks and sphere.kept.child.code() is None:
                sphere.talks = True  # a new one

    def _end_if_stopped(self, sphere: Sphere, now_s: float) -> None:
        """A worker that is stopped hears of no end: nobody waits for what it would do, unless it goes on at once."""
        if not is_stopped(sphere.pid):
            sphere.stopped_at_s = None
        elif sphere.stopped_at_s is None:
            sphere.stopped_at_s = now_s
        elif now_s - sphere.stopped_at_s > STOPPED_MOST_S:
            sphere.kept.child.kill()

    def _supervisor_ended(self, path: str, sphere: Sphere, code: int, now_s: float) -> None:
        log.info("the supervisor of sphere %s (pid %d) %s", path, sphere.kept.child.pid, spoken_end(code))
        sphere.talks, sphere.unfinished = False, b""
        if sphere.kept.code is None:
            sphere.restarts += 1
            if sphere.lost_at_s is None:
                self._view.note(f"sphere {path} was lost, its supervisor {spoken_end(code)}; both are started anew")
                sphere.lost_at_s = now_s
        elif code not in FINAL and not (self._leaving and code == -signal.SIGTERM):
            what = f"the supervisor of sphere {path} (pid {sphere.kept.child.pid}) {spoken_end(code)}"
            self.troubles.append(coded(what, "LW410"))

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
            self.begun = True
            sphere.restarts += "again" in item
            sphere.pid = item["pid"]
            log.info("sphere %s: pid %d", path, item["pid"])
        elif "working" in item:
            self.working += 1
            if sphere.lost_at_s is not None:
                self._view.note(f"sphere {path} is at work again, {time.monotonic() - sphere.lost_at_s:.1f} s later")
            sphere.lost_at_s = None
        elif "leaving" in item:
            self._view.note(f"sphere {path} leaves, asked to by {item['why']}; the run goes on without it")
        elif "gave_up" in item:
            self.troubles.append(item["why"])
        elif "exited" in item:
            self._worker_ended(path, sphere, item)

    def _worker_ended(self, path: str, sphere: Sphere, item: dict[str, Any]) -> None:
        code = item["code"] if item["signal"] is None else -item["signal"]
        how = spoken_end(code) if code is not None else "ended"
        log.info("sphere %s (pid %d) %s", path, item["pid"], how)
        if not item["final"]:
            if sphere.lost_at_s is None and self._needed:
                self._view.note(f"sphere {path} {how}; it is started anew")
                sphere.lost_at_s = time.monotonic()
        elif code:
            said = last_line(self._folder.log(path), records=False)
            what = f"sphere {path} (pid {item['pid']}) {how}"
            self.troubles.append(coded(f"{what}: {said}" if said else what, "LW406"))

    # ---------------------------------------------------------------- the end

    def kill(self) -> None:
        """All at once; workers die with their supervisors, by the kernel."""
        for each in self._kept():
            each.child.kill()

    def end(self) -> None:
        """Kill whoever lives, reap all, workers too, and take their pid files away."""
        from spheres import pids

        self.kill()
        for each in self._kept():
            each.child.end()
        deadline = time.monotonic() + ORPHANS_MOST_S
        while pids.reap_orphans(()) and time.monotonic() < deadline:
            time.sleep(REAP_S)
        self._folder.forget_pids(self.paths)
