"""The warm host forks a worker for each path and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from spheres.launch import run_host

def start(path):
    print("hello from", path)
    print("aside from", path, file=sys.stderr)
    {body}

sys.exit(run_host({paths!r}, Path({folder!r}), start))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a host whose workers run `body`; whatever is left of its session ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(body: str, paths: list[str]) -> subprocess.Popen[bytes]:
        text = SCRIPT.format(root=str(ROOT), body=body, paths=paths, folder=str(tmp_path))
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def items(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Everything that the host still reports, until it ends."""
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout.read().splitlines()]


def next_items(process: subprocess.Popen[bytes], kind: str, count: int) -> list[dict[str, Any]]:
    """Read the host's lines until `count` of them are of this kind."""
    assert process.stdout is not None
    found: list[dict[str, Any]] = []
    while len(found) < count:
        item = json.loads(process.stdout.readline())
        found += [item] if kind in item else []
    return found


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} took more than {limit_s} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether no process of this id runs any more (a zombie that nobody reaps does not run)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_each_path_gets_a_worker_with_a_log_of_its_own(host: Any, tmp_path: Path) -> None:
    """Both streams of every worker are in logs/<path>.log; the host ends with 0 after the last one."""
    process = host("return 0", ["a/0", "a/1", "b/0"])
    reports = items(process)
    assert process.wait() == 0
    assert sorted(item["exited"] for item in reports if "exited" in item) == ["a/0", "a/1", "b/0"]
    assert {item["code"] for item in reports if "exited" in item} == {0}
    for path in ("a/0", "a/1", "b/0"):
        log = (tmp_path / "logs" / f"{path}.log").read_text()
        assert f"hello from {path}" in log and f"aside from {path}" in log


def test_only_the_first_workers_prints_reach_the_launcher(host: Any) -> None:
    """Line by line, the last one too if it has no end."""
    process = host("print('no', 'end', end='')", ["0", "1"])
    printed = [(item["printed"], item["text"]) for item in items(process) if "printed" in item]
    assert printed == [("0", "hello from 0"), ("0", "no end")]


def test_an_end_is_reported_by_code_or_by_signal(host: Any) -> None:
    """A result, an exception, a sys.exit and a SIGKILL are told apart."""
    body = (
        "return {'0': lambda: 3, '1': lambda: 1 / 0, '2': lambda: sys.exit(7), "
        "'3': lambda: os.kill(os.getpid(), signal.SIGKILL)}[path]()"
    )
    process = host(body, ["0", "1", "2", "3"])
    ends = {item["exited"]: (item["code"], item["signal"]) for item in items(process) if "exited" in item}
    assert process.wait() == 1
    assert ends == {"0": (3, None), "1": (1, None), "2": (7, None), "3": (None, 9)}


def test_an_exception_is_in_the_workers_log(host: Any, tmp_path: Path) -> None:
    """The traceback is for the log, not for the launcher's terminal."""
    process = host("raise ValueError('what went wrong')", ["0"])
    items(process)
    assert "ValueError: what went wrong" in (tmp_path / "logs" / "0.log").read_text()


def test_the_end_of_the_lifeline_ends_all_workers_and_the_host(host: Any) -> None:
    """The launcher's death, by SIGKILL too, closes the pipe: everything is gone within moments."""
    process = host("time.sleep(600)", ["0", "1"])
    pids = [item["pid"] for item in next_items(process, "started", 2)]
    process.stdin.close()
    process.wait(timeout=5)
    for pid in pids:
        wait_until(partial(is_gone, pid), f"the end of worker {pid}")


def test_what_a_worker_started_ends_with_the_lifeline(host: Any) -> None:
    """A child of a worker is of the host's session."""
    process = host("import subprocess; print(subprocess.Popen(['sleep', '600']).pid); time.sleep(600)", ["0"])
    grandchild = int(next_items(process, "printed", 2)[1]["text"])
    process.stdin.close()
    wait_until(lambda: is_gone(grandchild), "the end of the worker's child")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word for it is Linux's")
def test_workers_die_with_a_host_that_is_killed(host: Any) -> None:
    """Also a worker whose thread holds the interpreter: the kernel does it."""
    process = host("time.sleep(600)", ["0", "1"])
    pids = [item["pid"] for item in next_items(process, "started", 2)]
    next_items(process, "printed", 1)
    process.kill()
    for pid in pids:
        wait_until(partial(is_gone, pid), f"the end of worker {pid}")


def test_a_host_whose_output_is_a_file_has_workers_too(tmp_path: Path) -> None:
    """Started by hand, `> out.txt`: the first worker's stdout is a pipe all the same."""
    text = SCRIPT.format(root=str(ROOT), body="return 0", paths=["0", "1"], folder=str(tmp_path))
    with (tmp_path / "out.txt").open("wb") as out:
        with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=out) as process:
            assert process.wait(timeout=10) == 0
    assert '"text": "hello from 0"' in (tmp_path / "out.txt").read_text()


def test_a_thread_that_never_ends_does_not_keep_a_worker(host: Any) -> None:
    """A stuck thread of a script must not keep a sphere from leaving."""
    process = host("threading.Thread(target=time.sleep, args=(600,)).start()", ["0"])
    items(process)
    assert process.wait(timeout=10) == 0


def test_a_terminals_interrupt_does_not_reach_workers(host: Any) -> None:
    """Only the launcher turns a signal into an order."""
    process = host("print('ready'); sys.stdin.read(); time.sleep(0.3)", ["0"])
    next_items(process, "printed", 2)
    os.killpg(process.pid, signal.SIGINT)
    assert [item["code"] for item in items(process) if "exited" in item] == [0]


FOLLOWER = """
import sys, time
sys.path.insert(0, {root!r})
from spheres.launch import follow_launcher
follow_launcher()
print("follows", flush=True)
time.sleep(600)
"""

LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {text!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word for it is Linux's")
def test_a_host_that_still_loads_torch_dies_with_its_launcher() -> None:
    """It does not look at its lifeline yet; a loading torch can take longer than the 5 s that it has."""
    text = FOLLOWER.format(root=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", LAUNCHER.format(text=text)], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.kill()
    wait_until(partial(is_gone, pid), "the end of the host")


SITTER = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from spheres.launch import follow_launcher, run_host

def start(path):
    print(subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(600)

follow_launcher()
run_host(["0"], Path({folder!r}), start)
"""

SITTERS_LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", {text!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
)
while b"printed" not in (line := child.stdout.readline()):
    pass
print(line.decode(), end="", flush=True)
time.sleep(600)
"""


def test_what_a_worker_started_ends_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """The host must live to end its session: the kernel would end the host alone, and its workers with it."""
    text = SITTERS_LAUNCHER.format(text=SITTER.format(root=str(ROOT), folder=str(tmp_path)))
    for _ in range(3):  # the kernel would not win each time
        with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as launcher:
            assert launcher.stdout is not None
            grandchild = int(json.loads(launcher.stdout.readline())["text"])
            launcher.kill()
        wait_until(partial(is_gone, grandchild), "the end of the worker's child")


def test_a_host_whose_launcher_is_gone_does_not_begin() -> None:
    """The end of file was there first."""
    text = FOLLOWER.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", text], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    assert done.returncode == 1 and done.stdout == b""
