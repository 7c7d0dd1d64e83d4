"""Row 8: what many clients cost control, and whether a step takes longer while they ask.

Two parts. Simulated spheres report so many versions a second that the story has its 10,000 lines within the minute (no
real step is as short here), and control's own processor time is read from the kernel. Then spheres that train make
steps, in turns with and without the clients, which have the lowest priority: they are not on the machines of a run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from .figures import Figure
from .plan import Plan
from .processes import Cannot, last_line, module, started
from .work import rows

ASKERS, EVENTS, WITHIN_S = 50, 10_000, 60.0
VERSIONS_PER_S = 180.0
SPHERES = 2
CORE_SHARE = 20.0
BEAT_S = 0.2
TURN_S = 10.0
PATIENCE_S = 120.0
FINGERPRINT = {"lightwatch": "0", "torch": "2", "threads": "1", "reduction": "exact", "probe": "abc"}
SECONDS = {"data": 1e-4, "compute": 3e-3, "wait": 5e-4, "reduce": 1e-3, "update": 4e-4, "step": 5e-3}


def measure(plan: Plan) -> list[Figure]:
    """Control's share of a core, how soon events and answers come, and steps with clients against steps without."""
    runs = [_story(plan.new_folder(f"row8-{run}"), plan, run) for run in range(plan.runs)]
    with_s, without_s = _steps(plan)
    answers = f"status to {ASKERS} clients, p99 of its answers"
    return [
        Figure(8, f"control with {ASKERS} askers and a reader", "% of a core", tuple(run["core"] for run in runs),
               bar=CORE_SHARE),
        Figure(8, f"the reader's first {EVENTS:,} events", "s", tuple(run["took_s"] for run in runs), bar=WITHIN_S),
        Figure(8, answers, "ms", tuple(run["p99_ms"] for run in runs)),
        Figure(8, "a step with those clients against one without", "times",
               tuple(one / other for one, other in zip(with_s, without_s, strict=True)),
               ours=1e3 * statistics.median(with_s), peer=1e3 * statistics.median(without_s),
               side_unit="ms", peer_name="without"),
    ]  # fmt: skip


# ---------------------------------------------------------------- simulated spheres


def _story(folder: Path, plan: Plan, run: int) -> dict[str, float]:
    """A minute of it."""
    from control.process import ControlProcess

    with ControlProcess(folder, run_id="bench", tree=str(SPHERES)) as control, playing(control.address):
        before_s, began_s = cpu_s(control.pid), time.monotonic()
        found = asked(control.address, WITHIN_S, EVENTS, folder / "askers.log")
        core = 100 * (cpu_s(control.pid) - before_s) / (time.monotonic() - began_s)
    if found["lost"] or found["took_s"] is None:
        raise Cannot(f"the reader had {found['read']} events in {WITHIN_S:g} s, and control left out {found['lost']}")
    p99_ms = 1e3 * statistics.quantiles(found["answers_s"], n=100)[-1]
    shown = f"{core:.1f}% of a core, {EVENTS} events in {found['took_s']:.1f} s, answers {p99_ms:.1f} ms"
    plan.tell(f"row 8, run {run + 1} of {plan.runs}: {shown}")
    return {"core": core, "took_s": found["took_s"], "p99_ms": p99_ms}


def asked(address: str, seconds: float, events: int, log: Path) -> dict[str, Any]:
    """What the clients found."""
    command = module("scripts.benchmarks.askers", address, seconds, ASKERS, events)
    with started(["nice", "-n", "19", *command], log, reports=True) as process:
        try:
            out, _ = process.communicate(timeout=seconds + PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Cannot(f"the clients did not come to an end: {last_line(log)}") from None
    if process.returncode or not out:
        raise Cannot(f"the clients failed: {last_line(log)}")
    found: dict[str, Any] = json.loads(out)
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def playing(address: str) -> Iterator[None]:
    """Spheres without torch that are begun, and from then on make versions in a thread of their own."""
    over, begun = threading.Event(), threading.Event()
    failed: list[Exception] = []

    def play() -> None:
        try:
            _play(address, over, begun)
        except Exception as error:  # said by whoever waits
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        if not begun.wait(PATIENCE_S) or failed:
            raise Cannot(f"the simulated spheres did not begin: {failed[0] if failed else 'nothing was heard'}")
        yield
        if failed:
            raise Cannot(f"a simulated sphere broke: {failed[0]}")
    finally:
        over.set()
        thread.join()


class Played:
    """One sphere."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, path: str) -> None:
        from control.protocol import Hello

        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self.generation = (0, 0)
        self.runs = False
        self.beats = self.seen = 0
        self.beaten_s = 0.0
        self.say(Hello(run_id="bench", path=path, pid=os.getpid(), host="bench"))

    def say(self, message: msgspec.Struct) -> None:
        from control.wire import encode

        self.socket.send(encode(message))

    def hear(self) -> None:
        """Take in all that has come, and answer it."""
        from control.protocol import Expelled, Go, Orders, Position, Proof, Ready, Refused, View, Welcome
        from control.wire import decode_at_sphere

        while self.socket.poll(0):
            match decode_at_sphere(self.socket.recv()):
                case Welcome():
                    self.say(Proof(fingerprint=FINGERPRINT, micro_batches=SPHERES, max_steps=10**9))
                case View(generation=generation):
                    self.generation = generation
                    self.say(Ready(generation=generation, position=Position(), holds_state=True, digest="d0"))
                case Go():
                    self.runs = True
                case Orders(orders=orders):
                    self.seen = orders[-1].number
                case Refused(text=text) | Expelled(text=text):
                    raise Cannot(text)
                case _:
                    pass

    def beat(self, version: int, now_s: float) -> None:
        from control.protocol import Beat, Phase, Position

        if now_s - self.beaten_s < BEAT_S or not self.generation[0]:
            return
        self.beaten_s, self.beats = now_s, self.beats + 1
        phase = Phase.COMPUTING if self.runs else Phase.FROZEN
        self.say(
            Beat(generation=self.generation, number=self.beats, phase=phase, seen=self.seen,
                 in_force=self.seen, position=Position(version=version))
        )  # fmt: skip

    def made(self, version: int) -> None:
        from control.protocol import Row

        self.say(
            Row(generation=self.generation, version=version, loss=1 / version, learning_rate=1e-3, weight=64,
                samples=2, check=version, in_force=self.seen, seconds=SECONDS, own_units=1, own_samples=1,
                own_weight=32, slowest="0", clip_ratio=1.0, grad_norm=1.0)
        )  # fmt: skip


def _play(address: str, over: threading.Event, begun: threading.Event) -> None:
    """All make the same version at the same moment, VERSIONS_PER_S times a second."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    spheres = [Played(context, address, str(number)) for number in range(SPHERES)]
    version, began_s = 0, 0.0
    try:
        while not over.wait(1 / VERSIONS_PER_S / 2):
            now_s = time.monotonic()
            for sphere in spheres:
                sphere.hear()
                sphere.beat(version, now_s)
            if not all(sphere.runs for sphere in spheres):
                continue
            began_s = began_s or now_s
            begun.set()
            while version < (now_s - began_s) * VERSIONS_PER_S:
                version += 1
                for sphere in spheres:
                    sphere.made(version)
    finally:
        for sphere in spheres:
            sphere.socket.close(0)
        context.term()


# ---------------------------------------------------------------- spheres that train


def _steps(plan: Plan) -> tuple[list[float], list[float]]:
    """Median seconds of a step, of each turn: with clients, without."""
    folder = plan.new_folder("row8-train")
    out, log = folder / "run", folder / "train.log"
    with_s, without_s = [], []
    command = module("lightwatch", "train", "--tree", SPHERES, "--steps", 10**6, "--out", out, "--quiet")
    with started(command, log) as process:
        deadline = time.monotonic() + PATIENCE_S
        while len(rows(out / "metrics.jsonl")) < 3:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Cannot(f"lightwatch train made no step: {last_line(log)}")
            time.sleep(0.1)
        address = json.loads((out / "control.json").read_text(encoding="utf-8"))["address"]
        for run in range(plan.runs):
            without_s.append(_turn(out, lambda: time.sleep(TURN_S)))
            with_s.append(_turn(out, lambda: asked(address, TURN_S, 1, folder / "askers.log")))
            shown = f"{1e3 * with_s[-1]:.0f} ms a step with clients, {1e3 * without_s[-1]:.0f} ms without"
            plan.tell(f"row 8, turn {run + 1} of {plan.runs}: {shown}")
    return with_s, without_s


def _turn(out: Path, pass_time: Any) -> float:
    """Median seconds of the steps that were made meanwhile."""
    before = len(rows(out / "metrics.jsonl"))
    pass_time()
    made = [row["step_s"] for row in rows(out / "metrics.jsonl")[before + 1 :]]
    if len(made) < 3:
        raise Cannot(f"{len(made)} steps only in {TURN_S:g} s; a turn takes at least 3")
    return float(statistics.median(made))
