"""`scripts/hosts attack`: what strangers at control's port cost a run with keys, in seconds of a step.

Three hosts: control and a sphere on `north`, a sphere on `south`, and on `east` who attacks. All of the run shares one
core, so what control spends on strangers is taken from the steps, as on a host that has a sphere for each core; the
attacker has another core for itself, so what it spends is not. But two cores share memory and caches, and with veth the
kernel receives on the sender's core: so the row `nobody` attacks a listener on `east` itself, and says what that does
to the steps; a bar of 1.10 means 1.10 times that.

Quiet and attacked stretches of STRETCH steps take turns, and each kind of attack is held against the quiet stretches
on both sides of it. Each comes as fast as the attacker's core can (`thin`: all kinds at once, THIN_RATE a second each).
"""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from control.entrance import Enrol
from control.keyfile import KeyFile, Pair
from control.keys import Keys
from control.roles import Role
from control.tokens import JoinLine, Tokens

from .attacker import KINDS
from .lan import Machine, lan
from .machine import cores
from .processes import Cannot
from .several import COMMAND, Site, Wrong

STRETCH = 12
WARM_UP = 10
THIN_RATE = 20.0
NOBODY, THIN, ALL = "nobody", "thin", "all"
PLAN = (NOBODY, THIN, *KINDS, ALL)
BETWEEN = 2
"""Steps that may pass from one stretch to the next, while attackers end."""
LISTENER = "import socket\nl = socket.create_server(('', 7))\nwhile True: l.accept()[0].close()"
NEEDS = {"forged": ["wrong"], "replayed": ["wrong"], "wrong-key": ["wrong", "revoked", "expired"]}
NEEDS |= {"used-token": ["used"], "frames": ["allowed"]}
"""Which key files a kind shows."""


@dataclass(frozen=True)
class Stretch:
    """What was seen while a kind of attack lasted; seconds: of each whole step in it."""

    kind: str
    seconds: list[float]
    rate: float
    busy: float
    grown_mb: float
    lines: int
    lasted_s: float


def play(folder: Path, plan: Sequence[str] = PLAN) -> tuple[str, str]:
    """The digest, and the table of it all. Raises Wrong, Cannot."""
    if cores() < 2:
        raise Cannot("the run and the attacker each need a core")
    with lan(folder, 3) as machines:
        pinned = ["taskset", "-c", 0, *COMMAND]
        steps = steps_of(plan)
        words = [*pinned, "up", "--steps", steps, "--dir", "out", "--wait-for", 2]
        site = Site(folder, machines, steps, "", machines[0].start(words, folder / "up.log"), {})
        site.wait_for(lambda: bool(site.said("up", "join '([^']+)'")), "the join line", 60)
        site.line = site.said("up", "join '([^']+)'")[0]
        for machine in machines[:2]:
            joined = [*pinned, "join", site.line, "--spheres", 1]
            site.joined[machine.name] = machine.start(joined, site.log(machine.name))
        site.wait_for(lambda: site.version() >= WARM_UP, "the first versions")
        siege = Siege(site, machines[2])
        quiet = [siege.stretch("")]
        attacked = []
        for kind in plan:
            attacked.append(siege.stretch(kind))
            quiet.append(siege.stretch(""))
        site.wait_for(lambda: site.up.poll() is not None, "the end")
        for host, process in site.joined.items():
            if process.wait(60):
                raise Wrong(f"what was started on {host} ended with {process.returncode}; see {folder}")
        return str(json.loads((site.out / "summary.json").read_text())["digest"]), table(quiet, attacked)


def steps_of(plan: Sequence[str] = PLAN) -> int:
    """How many the run has."""
    return WARM_UP + (STRETCH + BETWEEN) * (2 * len(plan) + 1)


class Siege:
    """The attacker's half, on a host of its own."""

    def __init__(self, site: Site, machine: Machine) -> None:
        self._site = site
        self._machine = machine
        line = JoinLine.read(site.line)
        host, _, port = line.address.removeprefix("tcp://").rpartition(":")
        self._address = (host, int(port))
        self._control = psutil.Process(json.loads((site.out / "control.json").read_text())["pid"])
        self._keys = _keys(site, line.control)
        self._log = site.out / "logs" / "control.log"

    def stretch(self, kind: str) -> Stretch:
        """So many steps, while this kind of attack lasts; empty: none does. Raises Wrong if control does not live."""
        try:
            return self._stretch(kind)
        except psutil.NoSuchProcess:
            raise Wrong(f"control has ended under {kind or 'nobody'}; see {self._log}") from None

    def _stretch(self, kind: str) -> Stretch:
        with self._attackers(kind) as attackers:
            begin, began_s, before = self._site.version(), time.monotonic(), self._control.cpu_times()
            memory, lines = self._memory(), self._lines()
            end = min(begin + STRETCH, self._site.steps)
            self._site.wait_for(lambda: self._site.version() >= end, f"{STRETCH} steps under {kind or 'nobody'}")
            lasted_s, after = time.monotonic() - began_s, self._control.cpu_times()
            grown_mb, more = (self._memory() - memory) / 1e6, self._lines() - lines
        steps = [row for row in self._site.rows() if begin + 1 < row["version"] <= begin + STRETCH]
        made = sum(json.loads(each.stdout.read())["made"] for each in attackers if each.stdout is not None)
        busy = (after.user + after.system - before.user - before.system) / lasted_s
        seconds = [row["step_s"] for row in steps]
        return Stretch(kind, seconds, made / lasted_s, busy, grown_mb, more, lasted_s)

    @contextmanager
    def _attackers(self, kind: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        kinds = {"": (), NOBODY: ("no-key",), THIN: KINDS, ALL: KINDS}.get(kind, (kind,))
        rate = THIN_RATE if kind == THIN else 0.0
        host, port = ("127.0.0.1", 7) if kind == NOBODY else self._address
        started: list[subprocess.Popen[bytes]] = []
        pinned = ["ip", "netns", "exec", self._machine.space, "taskset", "-c", "1", sys.executable]
        try:
            if kind == NOBODY:
                started.append(subprocess.Popen([*pinned, "-c", LISTENER]))
            for each in kinds:
                named = [word for name in NEEDS.get(each, []) for word in ("--key", str(self._keys / name))]
                words = ["-m", "scripts.benchmarks.attacker", each, host, str(port), "1e6", "--rate", str(rate)]
                started.append(subprocess.Popen([*pinned, *words, *named], stdout=subprocess.PIPE))
            yield started
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(30)

    def _memory(self) -> int:
        return int(self._control.memory_info().rss)

    def _lines(self) -> int:
        """Of strangers, in control's log."""
        return len(re.findall(r" WARNING ", self._log.read_text(errors="replace")))


def _keys(site: Site, control: str) -> Path:
    """Key files that should open nothing, and one of a machine that is allowed."""
    keys, folder = Keys(site.out), site.folder / "attacker"
    folder.mkdir()
    drawn = {name: Pair.draw() for name in ("wrong", "used", "expired")}
    tokens = Tokens(keys)
    drawn["expired"] = tokens.new(time.time() - 7200.0)
    drawn["used"] = tokens.new(time.time())
    tokens.redeem(drawn["used"].public, Enrol(public=Pair.draw().public, name="guest"), time.time())
    for name, pair in drawn.items():
        KeyFile(name=name, role="sphere", control=control, public=pair.public, secret=pair.secret).write(folder / name)
    for name in ("revoked", "allowed"):
        msgspec.structs.replace(keys.new(name, Role.SPHERE), control=control).write(folder / name)
    keys.revoke("revoked")
    return folder


def table(quiet: Sequence[Stretch], attacked: Sequence[Stretch]) -> str:
    """A line for each kind. quiet: one before each, and one after the last."""
    lines = ["", f"{'kind':10} {'tries/s':>8} {'quiet':>7} {'step':>7} {'ratio':>6} {'control':>8} {'memory':>8} lines"]
    for number, each in enumerate(attacked):
        calm = statistics.median(quiet[number].seconds + quiet[number + 1].seconds)
        step = statistics.median(each.seconds)
        cells = f"{each.kind:10} {each.rate:8.0f} {calm:5.3f} s {step:5.3f} s {step / calm:6.2f} {each.busy:7.1%}"
        lines.append(f"{cells} {each.grown_mb:+5.1f} MB {each.lines:2} in {each.lasted_s:.0f} s")
    every = [second for each in quiet for second in each.seconds]
    idle = statistics.median(each.busy for each in quiet)
    lines.append(f"quiet stretches: {statistics.median(every):.3f} s a step, control {idle:.1%} of a core")
    return "\n".join(lines)
