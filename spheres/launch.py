"""A worker's first moments and its last: what a forked process does around `worker.main`.

Laws
  1. A worker is the leader of a session of its own: a terminal's Ctrl-C does not reach it, and what it starts is of its
     group.
  2. It does not outlive its supervisor. They share a pipe that nobody ever writes to, whose other end only the
     supervisor holds. On Linux the kernel itself sends SIGKILL to the worker's group when that end closes: also to a
     worker that is stopped, or whose thread holds the interpreter. Elsewhere a thread waits for it.
  3. What it writes goes to its log; its stdout goes to its supervisor instead, if that asked for it.
  4. Its status pipe tells the supervisor what can't be seen from outside: see SIGNS.
  5. SIGTERM and SIGUSR1 ask a worker to leave in good order, and so does its supervisor, over a pipe of its own: once
     asked, it is as if nobody asked again. A machine that is taken away tells every process of it.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import pids

ASKED = (signal.SIGTERM, signal.SIGUSR1)
"""By which a supervisor is asked to leave: of a spot instance, Kubernetes, torchrun; of Slurm."""
ALIVE, MADE, CODE = SIGNS = (b".", b"v", b"=")
"""On the status pipe: I live (with each heartbeat); I made a version; the next byte is the exit code I leave with."""

LEAVE = b"l"
"""On the pipe of words: this sphere is to leave."""


@dataclass(frozen=True)
class Pipes:
    """A worker's descriptors, in the order in which they are handed over."""

    stdout: int
    log: int
    life: int
    status: int
    words: int


class Pulse:
    """What a worker says to its supervisor, and hears of it. Any thread may use it; nothing here waits."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._noted, self._note = os.pipe()

    def __call__(self, sign: bytes = ALIVE) -> None:
        _tell(self._pipes.status, sign)

    def heed_signals(self) -> None:
        """From here on those in ASKED ask to leave, also while the main thread is in a long call. Main thread only."""
        os.set_blocking(self._note, False)
        signal.set_wakeup_fd(self._note, warn_on_full_buffer=False)
        for number in ASKED:
            signal.signal(number, lambda _number, _frame: None)
        os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget_signals)

    def listen(self, leave: Callable[[], object]) -> None:
        """Call `leave`, from a thread of its own, once the supervisor or a signal asks for it; also if it has already.

        Only once: a supervisor's signal may come here as well, and it is the supervisor who counts.
        """

        def wait() -> None:
            while True:
                ready, _, _ = select.select([self._pipes.words, self._noted], [], [])
                if ready[0] == self._pipes.words and os.read(ready[0], 1) != LEAVE:
                    return  # its end
                if ready[0] == self._noted and os.read(self._noted, 1)[0] not in ASKED:
                    continue  # of a signal that a script has a use for
                leave()
                return

        threading.Thread(target=wait, name="words", daemon=True).start()

    def end(self, code: int) -> NoReturn:
        """End the process here and now, as one that chose to."""
        self(CODE + bytes([code & 0xFF]))
        os._exit(code & 0xFF)


Start = Callable[[Pulse], int | None]


def follow_launcher() -> None:
    """End with the launcher from here on, whose pipe is stdin.

    On Linux the kernel does it, also if we are stopped; elsewhere only a launcher that is dead already is noticed.
    """
    pids.tell_when_parent_ends(signal.SIGKILL)
    if select.select([0], [], [], 0)[0]:  # nothing is ever written there: this is its end
        os._exit(1)


def be_worker(pid_file: Path, pipes: Pipes, start: Start) -> NoReturn:
    """A forked child's whole life. Leaves by os._exit, so that nothing of the parent's stack runs a second time.

    start: given the function that writes to the status pipe; its result is the exit code (None: 0), an exception goes
    to the log, code 1.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pulse = Pulse(pipes)
        pulse.heed_signals()
        os.setsid()
        _die_with(pipes.life)
        pids.write(pid_file, os.getpid())  # after the line above: the file never names one whose supervisor is gone
        _redirect(pipes)
        faulthandler.enable()
        os.set_blocking(pipes.status, False)
        code = start(pulse) or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code and not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code, pipes.status)


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)


def _forget_signals() -> None:
    """In what a script forks they mean what they mean elsewhere, and what comes meanwhile is not lost."""
    signal.set_wakeup_fd(-1)
    for number in ASKED:
        signal.signal(number, signal.SIG_DFL)
    _release_signals()


def _leave(code: int, status: int) -> NoReturn:
    """What the interpreter would do at its end, but for waiting for threads: a stuck one must not keep the sphere."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1  # a full disk, under the log
    _tell(status, CODE + bytes([code & 0xFF]))
    os._exit(code & 0xFF)


def _tell(status: int, sign: bytes) -> None:
    """Never blocks: a supervisor that is stopped reads nothing, and what is told is told again."""
    try:
        os.write(status, sign)
    except OSError:
        pass


def _die_with(life: int) -> None:
    """See to it that the end of the pipe `life` is the end of this process and its group."""
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpid())  # negative: the group
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=_watch_life, args=(life,), daemon=True).start()
    if select.select([life], [], [], 0)[0]:  # it ended before
        os._exit(1)


def _watch_life(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def _redirect(pipes: Pipes) -> None:
    """Descriptors 0, 1, 2: nothing, `stdout`, the log. Lines are written as they end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(pipes.stdout, 1)
    os.dup2(pipes.log, 2)
    for descriptor in {nothing, pipes.stdout, pipes.log} - {0, 1, 2}:
        os.close(descriptor)
    # New ones: the parent's remember what they were made for, and one made for a file can't be told that it is a pipe.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
