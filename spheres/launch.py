"""The warm host: one process that has torch loaded forks a worker for each path, and watches them.

Importing torch costs 2 to 3 s of CPU a process; a fork costs some ms and shares the pages. The host does no torch work
of its own, so no thread exists when it forks.

Laws
  1. A worker does not outlive its host, nor the host whoever holds the other end of its stdin (the launcher): end of
     file there means that the launcher died, by SIGKILL too, and ends the whole session at once.
  2. The host's stdout is for the launcher, one JSON line an item: {"started": path, "pid": n},
     {"printed": path, "text": one line that the first worker wrote to its stdout},
     {"exited": path, "pid": n, "code": n or null, "signal": n or null}.
  3. What a worker writes goes to logs/<path>.log; the first worker's stdout goes to the launcher as well.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import json
import os
import select
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

Start = Callable[[str], int | None]

_LINE_MOST = 1 << 16
_PR_SET_PDEATHSIG = 1


@dataclass
class Worker:
    """A forked worker; `stdout` is the read end of its stdout, -1 where that goes to the log alone."""

    path: str
    pid: int
    log: Path
    stdout: int = -1
    unfinished: bytes = b""


def run_host(paths: Sequence[str], run_dir: Path, start: Start, *, lifeline: bool = True) -> int:
    """Fork a worker for each path, run `start(path)` in it, and return when all have ended: 0 if all ended well.

    start: called in the worker, its result is the exit code (None: 0); an exception goes to the worker's log, code 1.
    lifeline: whether stdin is the launcher's pipe (law 1). Call it in the main thread, with no other thread running.
    Blocks. Takes SIGCHLD and ignores SIGINT, here and in the workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_reader, False)
    os.set_blocking(wake_writer, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    workers: dict[int, Worker] = {}
    with selectors.DefaultSelector() as watched:
        watched.register(wake_reader, selectors.EVENT_READ)
        if lifeline:
            watched.register(0, selectors.EVENT_READ)
            _tell_when_parent_ends(0)  # the lifeline says it from here on: the kernel would end us, not the session
        try:
            for path in paths:
                worker = _fork(path, Path(run_dir), start, shown=path == paths[0])
                workers[worker.pid] = worker
                if worker.stdout >= 0:
                    watched.register(worker.stdout, selectors.EVENT_READ, worker)
                _report({"started": path, "pid": worker.pid})
            return _watch(workers, watched, wake_reader)
        finally:
            _end_all(workers)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(wake_reader)
            os.close(wake_writer)


def follow_launcher() -> None:
    """End with the launcher from here on. For before torch is loaded: `run_host` looks at the lifeline only after that.

    On Linux the kernel does it; elsewhere only a launcher that is dead already is noticed.
    """
    _tell_when_parent_ends(signal.SIGKILL)
    if select.select([0], [], [], 0)[0]:  # nothing is ever written there: this is its end
        os._exit(1)


def _tell_when_parent_ends(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, 0 for none; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def _watch(workers: dict[int, Worker], watched: selectors.BaseSelector, wake_reader: int) -> int:
    """Forward what the first worker prints and report each end, until all have ended or the lifeline breaks."""
    worst = 0
    while workers:
        ready = {key.fd for key, _ in watched.select()}
        for worker in [each for each in workers.values() if each.stdout in ready]:
            _forward(worker, watched)
        if wake_reader in ready:
            os.read(wake_reader, 4096)
        if 0 in ready and not os.read(0, 4096):
            _end_session(workers)
        for worker, status in _reap(workers):
            _forward(worker, watched, ended=True)
            code = os.waitstatus_to_exitcode(status)
            worst = worst or (1 if code else 0)
            number = -code if code < 0 else None
            _report({"exited": worker.path, "pid": worker.pid, "code": None if number else code, "signal": number})
    return worst


def _reap(workers: dict[int, Worker]) -> list[tuple[Worker, int]]:
    """Take the workers that have ended out of `workers`, with their wait status."""
    ended = []
    for pid in list(workers):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append((workers.pop(pid), status))
    return ended


def _forward(worker: Worker, watched: selectors.BaseSelector, *, ended: bool = False) -> None:
    """Copy what lies in the worker's pipe to its log and, line by line, to the launcher."""
    if worker.stdout < 0:
        return
    text, closed = b"", False
    while not closed and len(text) < _LINE_MOST:
        try:
            piece = os.read(worker.stdout, _LINE_MOST)
        except BlockingIOError:  # a child of the worker may hold the other end for long: never wait for its close
            break
        text, closed = text + piece, not piece
    _append(worker.log, text)
    worker.unfinished += text
    *lines, worker.unfinished = worker.unfinished.split(b"\n")
    if worker.unfinished and (ended or closed or len(worker.unfinished) >= _LINE_MOST):
        lines, worker.unfinished = [*lines, worker.unfinished], b""
    for line in lines:
        _report({"printed": worker.path, "text": line.decode(errors="replace")})
    if closed or ended:
        watched.unregister(worker.stdout)
        os.close(worker.stdout)
        worker.stdout = -1


def _append(log: Path, text: bytes) -> None:
    try:
        with log.open("ab") as file:
            file.write(text)
    except OSError:
        pass  # a full disk: the launcher still gets the lines


def _report(item: dict[str, object]) -> None:
    """One line to the launcher, whole: a signal may cut a write short. If nobody reads, the lifeline says so too."""
    line = json.dumps(item).encode() + b"\n"
    try:
        while line:
            line = line[os.write(1, line) :]
    except OSError:
        pass


def _end_all(workers: dict[int, Worker]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid, worker in workers.items():
        os.waitpid(pid, 0)
        if worker.stdout >= 0:
            os.close(worker.stdout)
    workers.clear()


def _end_session(workers: dict[int, Worker]) -> NoReturn:
    """The launcher is dead: end the workers, what they started, and this process."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    _end_all(workers)
    os._exit(1)


def _fork(path: str, run_dir: Path, start: Start, *, shown: bool) -> Worker:
    """Fork the worker for `path`. In the child this never returns."""
    reader, writer = os.pipe() if shown else (-1, -1)
    log = run_dir / "logs" / f"{path}.log"
    host = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_worker(path, log, start, host, writer)
    if shown:
        os.close(writer)
        os.set_blocking(reader, False)
    return Worker(path, pid, log, reader)


def _be_worker(path: str, log: Path, start: Start, host: int, stdout: int) -> NoReturn:
    """The child's whole life. Leaves by os._exit, so that nothing of the host's stack runs a second time."""
    code = 1
    try:
        _die_with(host)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect(log, stdout)
        faulthandler.enable()
        code = start(path) or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code and not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """What the interpreter would do at its end, but for waiting for threads: a stuck one must not keep the sphere."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1  # a full disk, under the log
    os._exit(code & 0xFF)


def _redirect(log: Path, stdout: int) -> None:
    """Descriptors 0, 1, 2: nothing, the pipe or the log, the log. Lines are written as they end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(stdout if stdout >= 0 else file, 1)
    os.dup2(file, 2)
    for descriptor in {file, nothing, stdout} - {-1, 0, 1, 2}:
        os.close(descriptor)
    # New ones: the host's remember what they were made for, and one made for a file can't be told that it is a pipe.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def _die_with(host: int) -> None:
    """Have the kernel end this process with its host; where it can't (not Linux), a thread looks."""
    if sys.platform == "linux":
        _tell_when_parent_ends(signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(host,), daemon=True).start()
    if os.getppid() != host:
        os._exit(1)


def _watch_parent(host: int) -> None:
    pause = threading.Event()
    while os.getppid() == host:
        pause.wait(0.5)
    os._exit(1)
