"""The template: a process that has torch loaded, and forks a worker for whoever asks.

Importing torch costs 2 to 3 s of CPU a process; a fork costs some ms and shares the pages. The template does no torch
work of its own, so no thread exists when it forks.

A request is one line over a Unix socket with the worker's five descriptors (`launch.Pipes`): {"control", "path",
"script", "profile", "former", "key", "interface", "local_rank"}. The answer is {"pid": n} with a handle on the process
(a pidfd; none where there are no such things). The line stays open: {"ended": code} follows, negative for a signal, as
only a parent can know it.

Laws
  1. Workers are not the template's to keep: they live and die with their supervisors, and survive the template.
  2. It ends with who started it: at the end of its stdin, and on Linux by the kernel's word.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control import crash
from lightwatch._beside import check

from . import handover
from .launch import ASKED, Pipes, Pulse, be_worker, follow_launcher
from .post import TOLD, Post

ASK_S = 1.0
"""Whoever connects speaks at once; one that does not must not keep the others waiting for long."""

Work = Callable[[dict[str, Any], Pulse], int | None]


def main() -> int:
    """Listen, load torch, and serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m spheres.template", description="Fork workers for supervisors.")
    parser.add_argument("--dir", required=True, type=Path, help="the run's folder")
    parser.add_argument("--socket", required=True, help="where to listen: a path, or @NAME for one of the kernel's own")
    given = parser.parse_args()
    follow_launcher()
    crash.arm(given.dir, "template")
    with handover.listen(given.socket) as listener:  # before torch: who asks meanwhile waits in line
        check()
        from . import worker

        def work(request: dict[str, Any], pulse: Pulse) -> int:
            post = Post(given.dir, **{name: request[name] for name in TOLD})
            return worker.main(post, former=request["former"], pulse=pulse)

        gc.collect()
        gc.freeze()  # a collection would write to every object, and so unshare its page
        return Template(listener, given.dir, work).serve()


class Template:
    """Serves requests, one after the other. Main thread only, with no other thread running.

    folder: the run's. work: called in each worker with its request.
    """

    def __init__(self, listener: socket.socket, folder: Path, work: Work) -> None:
        self._listener = listener
        self._folder = folder
        self._work = work
        self._asked: dict[int, socket.socket] = {}
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._watched = selectors.DefaultSelector()
        for source in (0, listener.fileno(), self._woken):
            self._watched.register(source, selectors.EVENT_READ)

    def serve(self) -> int:
        """Blocks until stdin ends; always 0. Takes SIGCHLD; ignores what asks to leave, and SIGINT, as workers do."""
        for number in (signal.SIGINT, *ASKED):  # a machine that is taken away tells every process
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        while True:
            ready = {key.fd for key, _ in self._watched.select()}
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._listener.fileno() in ready:
                self._answer()
            if 0 in ready and not os.read(0, 4096):
                return 0

    def _answer(self) -> None:
        """Take one request. Whatever is wrong with it is that supervisor's trouble: it sees the line close."""
        line, _ = self._listener.accept()
        descriptors: list[int] = []
        try:
            line.settimeout(ASK_S)
            handover.check_user(line)
            request, descriptors = handover.receive(line)
            self._fork(line, request, Pipes(*descriptors))
        except (OSError, TypeError) as error:
            print(f"template: a request came to nothing: {error} [LW410]", file=sys.stderr)
            line.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, line: socket.socket, request: dict[str, Any], pipes: Pipes) -> None:
        """Fork the worker and tell who it is. In the child this never returns."""
        sys.stderr.flush()
        crash.here("template.before_fork")
        pid = os.fork()
        if pid == 0:
            self._let_go(line)
            pid_file = self._folder / "spheres" / request["path"] / "worker.pid"
            be_worker(pid_file, pipes, lambda pulse: self._work(request, pulse))
        crash.here("template.after_fork")
        self._asked[pid] = line
        handle = [os.pidfd_open(pid)] if sys.platform == "linux" else []
        try:
            handover.send(line, {"pid": pid}, handle)
        finally:
            for descriptor in handle:
                os.close(descriptor)

    def _let_go(self, line: socket.socket) -> None:
        """In a worker: a listener that it held would keep the name of a template that is dead."""
        self._listener.close()
        self._watched.close()
        for each in (line, *self._asked.values()):
            each.close()
        os.close(self._woken)
        os.close(self._wake)

    def _reap(self) -> None:
        while self._asked:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._asked.pop(pid) as line:
                try:
                    handover.send(line, {"ended": os.waitstatus_to_exitcode(status)})
                except OSError:
                    pass  # its supervisor is dead, and so it died


if __name__ == "__main__":
    sys.exit(main())
