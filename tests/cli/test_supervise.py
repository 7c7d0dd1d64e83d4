"""A supervisor has its worker forked, starts it anew, and leaves nothing behind, however it ends. No torch here."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from spheres import handover, pids
from spheres.supervise import STUCK_SILENCES, is_stuck
from tests.cli.commands import environment, is_gone, wait_until
from tests.cli.house import House, items, next_item

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does for us is Linux's"),
]

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


def test_each_life_is_told_which_of_its_machines_spheres_it_is(house: House) -> None:
    """By whoever started the supervisor, who counts them; nobody else can."""
    body = "print('number', local_rank)\nlife == 1 and (sys.stdout.flush(), os.kill(os.getpid(), signal.SIGKILL))"
    house.work(body)
    for words, number in ((["--local-rank", "5"], 5), ([], None)):
        (house.folder / "lives").unlink(missing_ok=True)
        told = [item["text"] for item in items(house.supervise("0", "--shown", *words)) if "printed" in item]
        assert told.count(f"number {number}") == 2


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


def test_a_former_worker_that_is_reaped_in_the_moment_it_is_killed_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent may do so between the look at who it is and the signal."""
    file = tmp_path / "worker.pid"
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as child:
        pids.write(file, child.pid)
        of = pids.start_time

        def reaped(pid: int) -> int | None:
            begun = of(pid)
            child.kill()
            child.wait()
            return begun

        monkeypatch.setattr(pids, "start_time", reaped)
        assert pids.end_former(file) == child.pid and is_gone(child.pid)


def test_a_supervisor_that_breaks_says_so_before_it_ends(house: House) -> None:
    """Else its launcher would know nothing but that a sphere is gone. Here over a config that nobody can read."""
    (house.folder / "config.toml").write_text("[control")
    process = house.work(SLEEP).supervise()
    last = items(process)[-1]
    assert process.wait() == 1 and last["gave_up"] == "0" and "its supervisor broke: ConfigError" in last["why"]


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
    assert done.returncode == 1 and b"ended with code 1" in done.stdout, done.stderr
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
