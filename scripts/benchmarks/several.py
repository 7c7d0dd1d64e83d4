"""What `scripts/hosts` does: the default model on two and three hosts, by each way to start it, undisturbed and not."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwatch.cli.chaos_measure import work
from lightwatch.cli.chaos_records import read_made
from lightwatch.cli.folder import RunFolder
from lightwatch.config import PRESET

from .lan import Machine, lan
from .machine import ROOT
from .processes import TICK_S, environment

COMMAND = [sys.executable, "-m", "lightwatch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
AGENT = ["-m", "spheres", "--join"]
STEPS = 20
CUT_S = 10.0
PATIENCE_S = 600.0
RATE = "200mbit"

Process = subprocess.Popen[bytes]


class Wrong(Exception):
    """What should have happened did not."""


@dataclass
class Site:
    """A run, its control on the first of the hosts. joined: what was started on each, by the host's name."""

    folder: Path
    machines: list[Machine]
    steps: int
    line: str
    up: Process
    joined: dict[str, Process]

    @property
    def out(self) -> Path:
        return self.machines[0].home / "out"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def rows(self) -> list[dict[str, Any]]:
        file = self.out / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def version(self) -> int:
        return max((row["version"] for row in self.rows()), default=0)

    def wait_for(self, holds: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline or self.up.poll():
                raise Wrong(f"{what}: not within {within_s:g} s; see {self.folder}")
            time.sleep(TICK_S)

    def said(self, name: str, pattern: str) -> list[str]:
        """What a command's output says so far."""
        return re.findall(pattern, self.log(name).read_text(errors="replace"))


# -------------------------------------------------------------------- ways to start


def by_join(site: Site) -> None:
    for machine in site.machines:
        words = [*COMMAND, "join", site.line, "--spheres", 2]
        site.joined[machine.name] = machine.start(words, site.log(machine.name))


def by_one_torchrun(site: Site) -> None:
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{site.machines[0].name}:29500", "--rdzv-id", "hosts"]
    for machine in site.machines:
        words = [*TORCHRUN, "--nnodes", len(site.machines), "--nproc-per-node", 2, *meeting, *AGENT, site.line]
        site.joined[machine.name] = machine.start(words, site.log(machine.name))


def by_torchrun_each(site: Site) -> None:
    for machine in site.machines:
        words = [*TORCHRUN, "--standalone", "--nproc-per-node", 2, *AGENT, site.line]
        site.joined[machine.name] = machine.start(words, site.log(machine.name))


# -------------------------------------------------------------------- what may befall it


def nothing(_: Site) -> str:
    return ""


def worker_killed(site: Site) -> str:
    """By SIGKILL; its supervisor has another one, and torchrun does not hear of it."""
    file = next(site.machines[1].home.glob("runs/*/spheres/*/1/worker.pid"))
    pid = int(file.read_text().split()[0])
    agents = {name: process.pid for name, process in site.joined.items()}
    supervisors = {path: path.read_text() for path in site.folder.glob("*/runs/*/spheres/*/*/supervisor.pid")}
    os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        with suppress(OSError, IndexError, ValueError):
            return int(file.read_text().split()[0]) != pid
        return False

    site.wait_for(again, "another worker", 60)
    since = site.version()
    site.wait_for(lambda: site.version() > since + 2, "to go on", 60)
    if any(process.poll() is not None for process in site.joined.values()):
        raise Wrong("a torchrun has ended")
    if {path: path.read_text() for path in supervisors} != supervisors:
        raise Wrong("torchrun has started a supervisor anew")
    return (
        f"worker {pid} killed; the {len(supervisors)} supervisors and torchruns {sorted(agents.values())} are the same"
    )


def cut(site: Site) -> str:
    """Nothing passes to or from the second host for a while; in spite of that it takes part at the end."""
    before = site.version()
    site.machines[1].cut()
    time.sleep(CUT_S)
    during = site.version()
    site.machines[1].mend()
    mended_s = time.monotonic()
    place = site.machines[1].name
    site.wait_for(lambda: any(p.startswith(place) for p in _members(site)), "to be back", 60)
    back_s = time.monotonic() - mended_s
    return f"cut for {CUT_S:g} s: {during - before} versions meanwhile, back {back_s:.1f} s after"


def removed(site: Site) -> str:
    """The last host is no more; the others go on."""
    lost = site.machines[-1]
    before, begin_s = site.version(), time.monotonic()
    lost.remove()
    site.joined.pop(lost.name)
    site.wait_for(lambda: site.version() > before + 1, "the others to go on", 60)
    return f"{lost.name} gone at version {before}; the second version after it {time.monotonic() - begin_s:.1f} s later"


def left(site: Site) -> str:
    """The last host is asked to leave by SIGTERM, as a spot notice does: its processes end well, nothing is lost."""
    leaver = site.machines[-1].name
    process = site.joined.pop(leaver)
    before = site.version()
    process.send_signal(signal.SIGTERM)
    site.wait_for(lambda: process.poll() is not None, "to have left", 60)
    if process.returncode:
        raise Wrong(f"what was started on {leaver} ended with {process.returncode}")
    at = site.version()
    site.wait_for(lambda: site.up.poll() is not None, "the end")
    made = [one for each in site.machines for run in each.home.glob("runs/*") for one in read_made(RunFolder(run, ""))]
    again = work(made, PRESET.training.micro_batches).recomputed_micro_batches
    if again:
        raise Wrong(f"{again} micro-batches were computed twice")
    return f"{leaver} asked at version {before}, gone by {at}, exit code 0; no micro-batch computed twice"


def _members(site: Site) -> set[str]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"{(site.out / 'ledger.db').as_uri()}?mode=ro", uri=True)) as ledger:
        newest = "SELECT members FROM generations ORDER BY incarnation DESC, number DESC LIMIT 1"
        found = ledger.execute(newest).fetchone()
    return set(json.loads(found[0])) if found else set()


def thin(site: Site) -> str:
    """What the byte ledger says of the link is what both interfaces counted, all that control was told included."""
    site.wait_for(lambda: site.version() >= site.steps, "the last step")
    counted = sum(each.sent_bytes() for each in site.machines)
    site.wait_for(lambda: site.up.poll() is not None, "the end")
    lines = json.loads((site.out / "summary.json").read_text())["traffic"]
    booked = next(line["up"] + line["down"] for line in lines if line["level"] == 0)
    off = (counted - booked) / booked
    return f"{RATE}: {booked:,} bytes in the ledger, {counted:,} on the interfaces less headers: {off:+.2%}"


CASES: dict[str, tuple[int, Callable[[Site], None], Callable[[Site], str], int]] = {
    "join-2": (2, by_join, nothing, 1),
    "join-3": (3, by_join, nothing, 1),
    "torchrun-2": (2, by_one_torchrun, nothing, 1),
    "torchrun-3": (3, by_one_torchrun, nothing, 1),
    "agents-2": (2, by_torchrun_each, nothing, 1),
    "agents-3": (3, by_torchrun_each, nothing, 1),
    "kill": (2, by_one_torchrun, worker_killed, 2),
    "cut": (2, by_join, cut, 3),
    "leave": (2, by_join, left, 2),
    "remove": (3, by_join, removed, 2),
    "thin": (2, by_join, thin, 1),
}
"""How many hosts, how it is started, what befalls it at the fifth version, and how many times STEPS it has."""

ATTACK = "attack"


def play(name: str, folder: Path) -> tuple[str, str]:
    """One case: the digest, and what is told of it. Raises Wrong, Cannot."""
    count, begin, befall, times = CASES[name]
    with lan(folder, count) as machines:
        first = machines[0]
        for machine in machines if befall is thin else ():
            machine.limit(RATE)
        log = folder / "up.log"
        words = [*COMMAND, "up", "--steps", times * STEPS, "--dir", "out", "--wait-for", 2 * count]
        site = Site(folder, machines, times * STEPS, "", first.start(words, log), {})
        site.wait_for(lambda: bool(site.said("up", "join '([^']+)'")), "the join line", 60)
        site.line = site.said("up", "join '([^']+)'")[0]
        begin(site)
        site.wait_for(lambda: site.version() >= 5, "the first versions")
        told = befall(site)
        site.wait_for(lambda: site.up.poll() is not None, "the end")
        for host, process in site.joined.items():
            if process.wait(60):
                raise Wrong(f"what was started on {host} ended with {process.returncode}; see {folder}")
        digest = str(json.loads((site.out / "summary.json").read_text())["digest"])
        return digest, told or f"{len(_members(site))} spheres: {', '.join(sorted(_members(site)))}"


def alone(folder: Path, steps: int) -> str:
    """The digest that one process gives."""
    words = [*map(str, COMMAND), "train", "--tree", "1", "--steps", str(steps), "--out", "out", "--quiet"]
    subprocess.run(words, cwd=folder, env=environment(), check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return str(json.loads((folder / "out" / "summary.json").read_text())["digest"])


def main(argv: list[str]) -> int:
    """The exit code: 1 if a digest differs or a case went wrong."""
    from . import siege

    parser = argparse.ArgumentParser(prog="scripts/hosts", description="One run on several hosts of this machine.")
    names = f"of {', '.join(CASES)} (default: all of these), or {ATTACK}, which takes ten minutes"
    parser.add_argument("case", nargs="*", metavar="CASE", help=names)
    given = parser.parse_args(argv).case or list(CASES)
    if strange := set(given) - {*CASES, ATTACK}:
        parser.error(f"no such case: {', '.join(strange)}")
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the hosts go too
    wrong = 0
    known: dict[int, str] = {}
    for name in given:
        steps = CASES[name][3] * STEPS if name != ATTACK else siege.steps_of()
        if steps not in known:
            with tempfile.TemporaryDirectory(prefix="lightwatch-alone-") as undisturbed:
                known[steps] = alone(Path(undisturbed), steps)
            print(f"one process, {steps} steps: {known[steps][:16]}", flush=True)
        folder, begin_s = Path(tempfile.mkdtemp(prefix=f"lightwatch-{name}-")), time.monotonic()
        try:
            digest, told = play(name, folder) if name != ATTACK else siege.play(folder)
        except Wrong as error:
            digest, told = "none", str(error)
        same = digest == known[steps]
        wrong += not same
        took_s = time.monotonic() - begin_s
        print(f"{name:11} {digest[:16]} {'same' if same else 'DIFFERS'}  {took_s:5.1f} s  {told}", flush=True)
        if same:
            shutil.rmtree(folder)
        else:
            print(f"what its processes said: {folder}", flush=True)
    return 1 if wrong else 0
