"""`lightwatch doctor`: whether this machine fits a run, what is wrong, and what to do.

The machine asks control, with its own key or else with the join line's token, which enrolling alone uses up. What has
to be tried between two machines is tried by two doctors, one on each, who find each other through control and then
connect to each other. Control dials nobody, and spheres are asked nothing: so nobody can make control, or a run's
machines, connect anywhere, a step is not held up by more than a connection to its sphere's larder, and what is tried is
the way between the machines themselves, not between one of them and control. The price: from a machine on which there
are spheres but no doctor, the way to this one is not tried, and the answer says so.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, dumps, load, merge
from ..errors import ConfigError, code_of, told
from ..files import write_whole
from .doctor_findings import Check, Clock, Findings, Proof, Trouble, Verdict
from .doctor_judge import is_settled, judge, takes_part
from .doctor_places import disk, knock, places
from .settings import parameters
from .terminal import Terminal

if TYPE_CHECKING:
    from control.checkup import CheckedUp, Doctor
    from control.handshakes import Handshakes
    from control.keyfile import Pair
    from control.tokens import JoinLine
    from spheres.meeting import Meeting

MEET_S = 3.0
"""So long a doctor stays at least, for those that were started with it."""
LATE_S = 15.0
"""So much longer it stays for what is not finished: a fingerprint takes long on a busy machine."""
ASK_S = 3.0
PAUSE_S = 0.3
AT_ONCE = 8
SUM_BYTES = 4
"""Of each weight in the sums of a step."""


def doctor(arguments: argparse.Namespace) -> int:
    """Look and say; the exit code: 0 the machine fits, 1 something is wrong. Raises ConfigError for what is no join
    line. Blocks for some ten seconds, or --wait and some more."""
    from control.errors import KeyFileError
    from control.tokens import JoinLine

    terminal = Terminal(json_only=arguments.json)
    if arguments.wait < 0:
        raise ConfigError(f"--wait must be at least 0 seconds, got {arguments.wait} [LW002]")
    try:
        line = JoinLine.read(arguments.line)
    except KeyFileError as error:
        raise ConfigError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="lightwatch-doctor-") as folder:
        found = Examination(line, arguments, Path(folder)).run()
    checks = judge(found)
    _show(terminal, found, checks)
    return int(any(check.verdict is Verdict.FAULT for check in checks))


def _show(terminal: Terminal, found: Findings, checks: list[Check]) -> None:
    faults = [check for check in checks if check.verdict is Verdict.FAULT]
    terminal.tell(f"{found.machine}, for run {found.run_id} of control at {found.control}:")
    for check in checks:
        about = f"{check.about}: " if check.about and check.about not in check.text else ""
        terminal.tell(f"{check.verdict.value:5}  {check.name:11}  {about}{check.text}")
    names = ", ".join(dict.fromkeys(check.name for check in faults))
    terminal.tell(f"{len(faults)} to be put right: {names}" if faults else "nothing is wrong")
    lines = [
        {"check": each.name, "verdict": each.verdict.value.lower(), "about": each.about, "text": each.text}
        | ({"code": code_of(each.text)} if each.verdict is Verdict.FAULT else {})
        for each in checks
    ]
    figures = {name: asdict(value) for name in ("clock", "disk") if (value := getattr(found, name)) is not None}
    terminal.emit({"ok": not faults, "run_id": found.run_id, "control": found.control, "checks": lines, **figures})


class Examination:
    """One doctor's work. folder: for what it needs itself, gone afterwards; nothing else is left behind."""

    def __init__(self, line: JoinLine, arguments: argparse.Namespace, folder: Path) -> None:
        from control.reception import versions

        self._line = line
        self._arguments = arguments
        self._folder = folder
        self._began_s = time.monotonic()
        self._lock, enrolled = _lock(line)
        self.found = Findings(
            control=line.address,
            machine=socket.gethostname(),
            versions=versions(),
            name=secrets.token_hex(8),
            run_id=line.run_id,
            enrolled=enrolled,
            wanted=arguments.interface,
        )

    def run(self) -> Findings:
        """Blocks. What goes wrong is among the findings."""
        from control.config import split_address

        found = self.found
        try:
            found.places = places(self._line.address, self._arguments.interface)
        except ConfigError as error:
            found.troubles.append(Trouble("interface", str(error)))
        host, port = split_address(self._line.address)
        found.at_control = knock(host.strip("[]"), int(port))
        run = self._briefed() if not found.at_control.why else None
        self._look_at_disk(run or RunConfig())
        if run is not None:
            found.step_bytes = SUM_BYTES * parameters(run.model)
            found.data, found.data_wanted = run.data.path, run.data.fingerprint
            from spheres.meeting import Meeting

            with ExitStack() as stack, Meeting() as meeting:
                if self._say_card(meeting):
                    proving = None if takes_part(found) else stack.enter_context(Proving(self._folder, run))
                    self._consult(meeting, proving)
        return found

    def _briefed(self) -> RunConfig | None:
        """The run's config as control tells it, with the data where they are on this machine."""
        from control.entrance import Brief, Briefed

        answer = self._asked(Brief())
        if not isinstance(answer, Briefed):
            return None
        self.found.run_id = answer.run_id
        file = self._folder / "told.toml"
        try:
            write_whole(file, answer.config.encode())
            run = load(file, RunConfig())
        except (OSError, ConfigError) as error:
            self.found.troubles.append(Trouble("control", told(error)))
            return None
        return merge(run, data={"path": str(Path(self._arguments.data).absolute())}) if self._arguments.data else run

    def _asked(self, word: Any) -> Any:
        """Control's answer; None, and a trouble, if there is none."""
        from control.errors import ControlError
        from control.question import asked

        try:
            return asked(self._line.address, word, self._lock, ASK_S, self._why)
        except ControlError as error:
            self.found.troubles.append(Trouble("control", str(error)))
            return None

    def _why(self, handshakes: Handshakes) -> str:
        line = self._line
        if handshakes.denied and not self.found.enrolled:
            return f"control at {line.address}: this join line is over, or of another run; ask for another one [LW545]"
        return f"control at {line.address}: {handshakes.why_refused()}"

    def _look_at_disk(self, run: RunConfig) -> None:
        folder = Path(self._arguments.dir or Path("runs", self.found.run_id)).absolute()
        try:
            self.found.disk = disk(folder, run)
        except OSError as error:
            self.found.troubles.append(
                Trouble("disk", f"{folder}: {error.strerror or error}; give another --dir [LW604]")
            )

    # ---------------------------------------------------------------- with control and the other doctors

    def _consult(self, meeting: Meeting, proving: Proving | None) -> None:
        """Say the card and hear the others' until nothing more is to come, or the time is over."""
        least_s = min(MEET_S, self._arguments.wait)
        most_s = self._arguments.wait + LATE_S
        pool = ThreadPoolExecutor(AT_ONCE)
        work: dict[Any, Future[Any]] = {}
        try:
            while (past_s := time.monotonic() - self._began_s) < most_s:
                if proving is not None:
                    proving.look(self.found)
                elif not self.found.proof.over and self.found.told is not None:
                    self.found.proof = Proof(self.found.told.fingerprint, over=True)
                if not self._say_card(meeting):
                    return
                self._begin(pool, work)
                for key in [key for key, future in work.items() if future.done()]:
                    self._take(key, work[key].result())
                enough = past_s >= least_s and (self.found.contacts or past_s >= self._arguments.wait)
                if enough and is_settled(self.found) and self._said == self._card(meeting):
                    break
                time.sleep(PAUSE_S)
            self._say_card(meeting, leaves=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _card(self, meeting: Meeting, leaves: bool = False) -> Doctor:
        from control.checkup import Doctor

        found = self.found
        return Doctor(
            name=found.name,
            host=found.machine,
            places=found.places,
            port=meeting.port,
            key=meeting.key,
            fingerprint=found.proof.fingerprint,
            done=found.proof.over,
            leaves=leaves,
            contacts=list(found.contacts.values()),
        )

    def _say_card(self, meeting: Meeting, leaves: bool = False) -> bool:
        """Whether control answered; then its answer is among the findings."""
        from control.checkup import CheckedUp, CheckUp

        self._said = self._card(meeting, leaves)
        began_s, wall_s = time.monotonic(), time.time()
        answer = self._asked(CheckUp(card=self._said))
        took_s = time.monotonic() - began_s
        if not isinstance(answer, CheckedUp):
            return False
        self._heard(answer, wall_s, took_s)
        return True

    def _heard(self, answer: CheckedUp, wall_s: float, took_s: float) -> None:
        found = self.found
        clock = Clock(wall_s + took_s / 2, answer.clock_s, took_s / 2)
        if found.clock is None or clock.uncertain_s < found.clock.uncertain_s:
            found.clock = clock
        fresh = {other.name: other for other in answer.doctors}
        met = {name: other for name, other in found.met.items() if name in found.contacts and self._was_met(other)}
        found.met = met | fresh
        found.told = answer

    def _was_met(self, other: Doctor) -> bool:
        """Whether a doctor that is gone has said how it reached this one: else it was gone before they met."""
        return any(contact.doctor == self.found.name for contact in other.contacts)

    def _begin(self, pool: ThreadPoolExecutor, work: dict[Any, Future[Any]]) -> None:
        """Dial each doctor and connect to each sphere once."""
        from spheres.meeting import dial

        assert self.found.told is not None
        for other in self.found.met.values():
            if other.name not in work and not other.leaves:
                work[other.name] = pool.submit(dial, other)
        source = self.found.places[0][1] if self.found.places else ""
        for each in self.found.told.neighbours:
            key = (each.address, each.port)
            if key not in work:
                work[key] = pool.submit(knock, each.address, each.port, source)

    def _take(self, key: Any, result: Any) -> None:
        if isinstance(key, str):
            self.found.contacts[key] = result
        else:
            self.found.knocks[key] = result


def _lock(line: JoinLine) -> tuple[tuple[str, Pair], bool]:
    """What this machine shows to control, and whether that is its own key."""
    from control.errors import KeyFileError
    from control.keyfile import Pair, own_key, read_key

    path = own_key(line.run_id, "sphere")
    try:
        key = read_key(path) if path.exists() else None
    except KeyFileError as error:
        raise ConfigError(str(error)) from None
    if key is not None and key.control == line.control:
        return (key.control, Pair(public=key.public, secret=key.secret)), True
    return (line.control, line.token), False


class Proving:
    """The process that finds out the fingerprint; it is ended when this is left."""

    def __init__(self, folder: Path, run: RunConfig) -> None:
        file = folder / "config.toml"
        anything = merge(run, data={"fingerprint": ""})  # other data are told beside all else that differs
        write_whole(file, dumps(anything).encode())
        self._out = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "lightwatch.cli.doctor_probe", str(file)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Proving:
        return self

    def __exit__(self, *about: object) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()

    def look(self, found: Findings) -> None:
        """Take what it has told, once it has ended. Never blocks."""
        if found.proof.over or self._process.poll() is None:
            return
        self._out.seek(0)
        lines = self._out.read().splitlines()
        try:
            said = json.loads(lines[-1])
        except (IndexError, ValueError):
            what = f"the process that computes it ended with code {self._process.returncode}"
            said = {"name": "fingerprint", "text": f"{what}; see that `python -c 'import torch'` works here [LW403]"}
        if "text" in said:
            found.troubles.append(Trouble(said["name"], said["text"]))
        found.proof = Proof(said.get("fingerprint", {}), over=True)
