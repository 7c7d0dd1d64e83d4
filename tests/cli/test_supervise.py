"""A supervisor has its worker forked, starts it anew, and leaves nothing behind, however it ends. No torch here."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spheres import handover, pids
from spheres.supervise import ONE_WORD_S, STUCK_SILENCES, is_stuck, spoken_end
from tests.cli.commands import ROOT, environment, is_gone, wait_until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does for us is Linux's"),
]

TEMPLATE = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from spheres import handover
from spheres.template import Template

def work(request, pulse):
    path, former = request["path"], request["former"]
    lives = Path({folder!r}, "lives")
    with lives.open("a") as file:
        file.write(f"{{os.getpid()}} {{former}}\\n")
    life = len(lives.read_text().splitlines())
    print("hello from", path)
    print("aside from", path, file=sys.stderr)
    {body}

sys.exit(Template(handover.listen({name!r}), Path({folder!r}), work).serve())
"""


class House:
    """A template whose workers run `body`, and supervisors; `close` ends what is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = handover.new_name()
        self.template: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "config.toml").write_text("[control]\nsilence_s = 0.2\n")

    def work(self, body: str) -> House:
        """Begin a template; a former one of this house is dead."""
        body = body.replace("\n", "\n    ")
        text = TEMPLATE.format(root=str(ROOT), body=body, name=self.name, folder=str(self.folder))
        self.template = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, start_new_session=True)
        self._started.append(self.template)
        return self

    def supervise(self, path: str = "0", *more: str) -> subprocess.Popen[bytes]:
        words = ["--dir", str(self.folder), "--control", "tcp://127.0.0.1:9", "--path", path, "--template", self.name]
        process = subprocess.Popen(
            [sys.executable, "-m", "spheres", *words, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=environment(),
        )
        self._started.append(process)
        return process

    def lives(self) -> list[tuple[int, int]]:
        """Of all workers so far: own process id, and that of the former."""
        lines = (self.folder / "lives").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def close(self) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if (self.folder / "lives").exists():
            for pid, _ in self.lives():
                wait_until(partial(is_gone, pid), f"the end of worker {pid}", limit_s=5)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path)
    yield found
    found.close()


def items(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Everything that the supervisor still reports, until it ends."""
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout.read().splitlines()]


def next_item(process: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    """Read the supervisor's lines until one is of this kind."""
    assert process.stdout is not None
    while kind not in (item := json.loads(process.stdout.readline())):
        pass
    assert isinstance(item, dict)
    return item


SLEEP = "time.sleep(600)"


def test_a_worker_has_a_log_of_its_own_and_its_end_is_the_supervisors(house: House) -> None:
    """Both streams are in logs/<path>.log, and no pid file is left."""
    process = house.work("return 0").supervise("a/0")
    reports = items(process)
    assert process.wait() == 0
    ((pid, former),) = house.lives()
    assert former == 0 and {"started": "a/0", "pid": pid} in reports
    assert reports[-1] == {"exited": "a/0", "pid": pid, "code": 0, "signal": None, "final": True}
    log = (house.folder / "logs" / "a" / "0.log").read_text()
    assert "hello from a/0" in log and "aside from a/0" in log
    assert not list(house.folder.rglob("*.pid"))


def test_prints_reach_the_launcher_only_where_they_are_asked_for(house: House) -> None:
    """Line by line, the last one too if it has no end; and they are in the log."""
    house.work("print('no', 'end', end='')")
    shown, hidden = house.supervise("0", "--shown"), house.supervise("1")
    printed = [(item["printed"], item["text"]) for item in items(shown) if "printed" in item]
    assert printed == [("0", "hello from 0"), ("0", "no end")]
    assert not [item for item in items(hidden) if "printed" in item]
    assert all("no end" in (house.folder / "logs" / f"{path}.log").read_text() for path in (0, 1))


@pytest.mark.parametrize(("body", "code"), [("1 / 0", 1), ("sys.exit(2)", 2), ("sys.exit('why')", 1)])
def test_a_run_that_failed_is_not_tried_again(body: str, code: int, house: House) -> None:
    """An exception and a sys.exit are told by their codes; what raised is in the log."""
    process = house.work(body).supervise()
    assert [item["code"] for item in items(process) if "exited" in item] == [code]
    assert process.wait() == code and len(house.lives()) == 1


def test_a_worker_that_is_killed_is_started_anew_and_told_who_was_there(house: House) -> None:
    """The former's number goes along: it is the proof that it is dead."""
    process = house.work("life == 1 and os.kill(os.getpid(), signal.SIGKILL)").supervise()
    reports = items(process)
    (first, _), (second, former) = house.lives()
    assert process.wait() == 0 and former == first
    assert {"exited": "0", "pid": first, "code": None, "signal": 9, "final": False} in reports
    assert {"again": "0", "pid": second, "why": "ended by SIGKILL"} in reports


def test_a_worker_that_breaks_off_is_started_anew_whatever_its_code(house: House) -> None:
    """Only an end that it told is one: os._exit in a script is a death like any other."""
    process = house.work("life == 1 and os._exit(0)").supervise()
    reports = items(process)
    (first, _), (second, former) = house.lives()
    assert process.wait() == 0 and former == first
    assert {"exited": "0", "pid": first, "code": 0, "signal": None, "final": False} in reports
    assert {"again": "0", "pid": second, "why": "ended with code 0"} in reports


def test_a_worker_that_makes_nothing_is_given_up_after_five_lives(house: House) -> None:
    """One sentence says so, and the supervisor's code is 1."""
    process = house.work("os._exit(75)").supervise()
    reports = items(process)
    assert process.wait() == 1 and len(house.lives()) == 5
    assert "[LW413]" in reports[-1]["why"] and "5 times" in reports[-1]["why"]


def test_a_version_that_was_made_forgives_all_lives_before(house: House) -> None:
    """Eight lives, each of which made one; the launcher hears of it."""
    process = house.work("life % 2 and pulse(b'v')\nreturn 0 if life == 8 else 75").supervise()
    reports = items(process)
    assert process.wait() == 0 and len(house.lives()) == 8
    assert not [item for item in reports if "gave_up" in item]


def test_the_launcher_hears_that_a_worker_made_a_version(house: House) -> None:
    process = house.work(f"pulse(b'v'); {SLEEP}").supervise()
    assert next_item(process, "working")["pid"] == house.lives()[0][0]


def test_a_worker_whose_pulse_stops_is_killed(house: House) -> None:
    """It has stopped itself, and would stay so for good."""
    process = house.work("life == 1 and (pulse(), os.kill(os.getpid(), signal.SIGSTOP))").supervise()
    assert {"exited": "0", "pid": house_pid(process), "code": None, "signal": 9, "final": False} in items(process)
    assert process.wait() == 0 and len(house.lives()) == 2


def house_pid(process: subprocess.Popen[bytes]) -> int:
    return int(next_item(process, "started")["pid"])


def test_a_pulse_is_missed_only_after_the_first() -> None:
    """What a script does before it trains takes as long as it takes."""
    assert not is_stuck(None, 1e9, 1.0)
    assert not is_stuck(10.0, 10.0 + STUCK_SILENCES, 1.0)
    assert is_stuck(10.0, 10.1 + STUCK_SILENCES, 1.0)


CHILD = "child = subprocess.Popen(['sleep', '600']); print(child.pid); "


@pytest.mark.parametrize("how", ["lifeline", "killed", "killed, the worker stopped"])
def test_a_worker_and_what_it_started_end_with_the_supervisor(how: str, house: House) -> None:
    """The launcher's death closes the pipe; the supervisor's own death is the kernel's word to the worker's group."""
    process = house.work(CHILD + SLEEP).supervise("0", "--shown")
    worker = house_pid(process)
    next_item(process, "printed")
    child = int(next_item(process, "printed")["text"])
    if how.endswith("stopped"):
        os.kill(worker, signal.SIGSTOP)
    if how == "lifeline":
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.kill()
    process.wait(timeout=5)
    for pid in (worker, child):
        wait_until(partial(is_gone, pid), f"the end of {pid}", limit_s=5)


def test_what_a_worker_started_is_gone_before_the_next_one_begins(house: House) -> None:
    body = (
        "if life == 1:\n"
        "    with open(lives.with_name('child'), 'w') as file:\n"
        "        file.write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "    os._exit(75)"
    )
    process = house.work(body).supervise()
    assert items(process) and process.wait() == 0
    assert is_gone(int((house.folder / "child").read_text()))


def test_a_template_that_is_killed_takes_no_worker_with_it(house: House) -> None:
    """And the next worker comes from the next template, which the supervisor waits for."""
    process = house.work(f"life == 1 and {SLEEP}").supervise()
    worker = house_pid(process)
    wait_until((house.folder / "lives").exists, "the worker's own work")
    assert house.template is not None
    house.template.kill()
    house.template.wait()
    assert not is_gone(worker)
    next_one = house.work("return 0").template
    assert next_one is not None
    wait_until(lambda: listener(house.name) == next_one.pid, "the next template")
    os.kill(worker, signal.SIGKILL)
    assert [item["code"] for item in items(process) if "exited" in item] == [None, 0]
    assert house.lives()[1][1] == worker


def listener(name: str) -> int:
    """The process that listens at this name; 0 if there is none. Nothing is asked of it."""
    try:
        with handover.connect(name) as line:
            pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return 0
    return int(pid)


def test_a_worker_of_an_earlier_supervisor_is_dead_before_another_begins(house: House) -> None:
    """By number and start time: another process that was given the number since is left alone."""
    earlier = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        file = house.folder / "spheres" / "0" / "worker.pid"
        pids.write(file, earlier.pid)
        file.write_text(f"{earlier.pid} {(pids.start_time(earlier.pid) or 0) - 1}\n")
        process = house.work("return 0").supervise()
        assert items(process) and process.wait() == 0
        assert earlier.poll() is None
        pids.write(file, earlier.pid)
        process = house.supervise()
        assert items(process) and process.wait() == 0
        assert earlier.wait(timeout=5) == -signal.SIGKILL
        assert house.lives()[1][1] == earlier.pid
    finally:
        earlier.kill()
        earlier.wait()


def test_a_thread_that_never_ends_does_not_keep_a_worker(house: House) -> None:
    """A stuck thread of a script must not keep a sphere from leaving."""
    process = house.work("threading.Thread(target=time.sleep, args=(600,)).start()").supervise()
    assert items(process) and process.wait(timeout=10) == 0


def test_a_terminals_interrupt_reaches_nobody(house: House) -> None:
    """Only the launcher turns a signal into an order."""
    process = house.work("sys.stdin.read(); time.sleep(0.3)").supervise()
    house_pid(process)
    assert house.template is not None
    for each in (process, house.template):
        os.killpg(each.pid, signal.SIGINT)
    assert [item["code"] for item in items(process) if "exited" in item] == [0]


def test_a_supervisor_without_a_template_starts_its_own(house: House) -> None:
    """With torch and all; the worker finds no run in the folder, and nobody is left of the three."""
    (house.folder / "config.toml").touch()
    words = ["--dir", str(house.folder), "--control", "tcp://127.0.0.1:9", "--path", "0", "--no-lifeline"]
    command = [sys.executable, "-m", "spheres", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, stdin=subprocess.DEVNULL, timeout=50)
    assert done.returncode == 1 and b'"code": 1' in done.stdout, done.stderr
    assert "control.json" in (house.folder / "logs" / "0.log").read_text()


def test_without_supervision_the_worker_is_the_process_itself(house: House) -> None:
    """Nobody starts it anew; it says on stderr that there is no run here."""
    (house.folder / "config.toml").touch()
    words = ["--dir", str(house.folder), "--control", "tcp://127.0.0.1:9", "--path", "0", "--no-lifeline"]
    command = [sys.executable, "-m", "spheres", *words, "--no-supervise"]
    done = subprocess.run(command, env=environment(), capture_output=True, stdin=subprocess.DEVNULL, timeout=50)
    assert done.returncode == 1 and b"control.json" in done.stderr and done.stdout == b""


def test_a_pid_file_on_a_full_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody dies of it; the former's name is gone too, for it says nothing of who lives now."""
    file = tmp_path / "worker.pid"
    pids.write(file, os.getpid())
    assert pids.read(file) == (os.getpid(), pids.start_time(os.getpid()))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    pids.write(file, os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_the_other_end_must_be_of_our_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the kernel's has no permissions."""
    name = handover.new_name()
    with handover.listen(name):
        handover.connect(name).close()
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        with pytest.raises(handover.Broken, match="user"):
            handover.connect(name)


def test_descriptors_and_a_line_of_any_length_go_over() -> None:
    """A script's arguments may be long; what comes over is open there."""
    name = handover.new_name()
    reader, writer = os.pipe()
    with handover.listen(name) as listener, handover.connect(name) as here:
        there, _ = listener.accept()
        with there:
            handover.send(here, {"text": "x" * 70_000}, [writer])
            os.close(writer)
            item, (theirs,) = handover.receive(there)
            os.write(theirs, b"over")
            os.close(theirs)
            assert len(item["text"]) == 70_000 and os.read(reader, 10) == b"over"
            here.close()
            with pytest.raises(handover.Broken):
                handover.receive(there)
    os.close(reader)


def test_ends_are_told_in_a_few_words() -> None:
    assert [spoken_end(code) for code in (None, 75, 3, -9)] == [
        "ended",
        "asked to be started anew",
        "ended with code 3",
        "ended by SIGKILL",
    ]


# ---------------------------------------------------------------- leaving

LEAVES = "left = threading.Event(); pulse.listen(left.set); pulse(b'v')\nwhile not left.wait(0.01): pass\nreturn 0"
STAYS = "pulse.listen(lambda: Path({file!r}).touch()); pulse(b'v'); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("role", ["supervisor", "worker"])
def test_a_signal_to_either_process_asks_the_worker_to_leave(role: str, number: int, house: House) -> None:
    """Both end with 0, and no other life begins."""
    process = house.work(LEAVES).supervise()
    pid = next_item(process, "working")["pid"]
    os.kill(process.pid if role == "supervisor" else pid, number)
    told = items(process)
    assert process.wait() == 0 and len(house.lives()) == 1
    assert told[-1] == {"exited": "0", "pid": pid, "code": 0, "signal": None, "final": True}
    assert ({"leaving": "0", "why": signal.Signals(number).name} in told) == (role == "supervisor")


def test_a_second_signal_ends_a_sphere_at_once_but_not_within_a_second(house: House) -> None:
    """Three that come together are one, as those that a group and its leader get."""
    file = house.folder / "asked"
    process = house.work(STAYS.format(file=str(file))).supervise()
    next_item(process, "working")
    os.kill(process.pid, signal.SIGTERM)
    next_item(process, "leaving")
    asked_s = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
    wait_until(file.exists, "the worker's knowledge of it")
    wait_until(lambda: time.monotonic() - asked_s > ONE_WORD_S, "the end of the first word")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 1 and len(house.lives()) == 1
    wait_until(partial(is_gone, house.lives()[0][0]), "the end of the worker", limit_s=5)


def test_a_worker_that_dies_while_it_leaves_has_no_successor(house: House) -> None:
    """Nobody is to be there; but the others have lost something, so the code is 1."""
    process = house.work("pulse.listen(lambda: os.kill(os.getpid(), signal.SIGKILL)); pulse(b'v'); time.sleep(600)")
    supervisor = process.supervise()
    next_item(supervisor, "working")
    os.kill(supervisor.pid, signal.SIGTERM)
    assert supervisor.wait(10) == 1 and len(house.lives()) == 1


def test_what_a_worker_starts_heeds_signals_as_usual(house: House) -> None:
    """A child that it forks ends by SIGTERM, and the worker is not asked to leave by what its child does."""
    body = (
        "child = os.fork()\n"
        "if child == 0: time.sleep(600)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "return 0 if os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM else 1"
    )
    assert house.work(body).supervise().wait(20) == 0
