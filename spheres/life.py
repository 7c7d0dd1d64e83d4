"""One life of a worker, as its supervisor holds it: our ends of its pipes, and what they tell."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from dataclasses import dataclass

from . import handover, pids
from .launch import CODE, LEAVE, MADE, Pipes
from .post import TOLD, Post

WORD_S = 0.5
"""How long the template may take to say how a worker ended that is dead already."""
_LINE_MOST = 1 << 16


@dataclass
class Life:
    """From the moment the worker is asked for. Descriptors are -1 where there are none."""

    post: Post
    line: socket.socket
    """To the template: its answer, and at the end its word on how the worker ended."""
    hold: int
    """While this is open the worker may live."""
    status: int
    stdout: int
    words: int = -1
    pid: int = 0
    handle: int = -1
    made: bool = False
    """Whether it has made a version."""
    code: int | None = None
    """The exit code that it said it leaves with."""
    spoke: bool = False
    unfinished: bytes = b""

    @classmethod
    def ask(cls, post: Post, template: str, former: int) -> Life:
        """Ask the template for a worker. Raises OSError if nobody is there."""
        line = handover.connect(template)
        post.log.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(post.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        stdout, printed = os.pipe() if post.shown else (-1, log)
        life, hold = os.pipe()
        status, told = os.pipe()
        heard, words = os.pipe()
        for ours in {status, stdout} - {-1}:
            os.set_blocking(ours, False)
        found = cls(post, line, hold, status, stdout, words)
        request = {"former": former, **{name: getattr(post, name) for name in TOLD}}
        theirs = Pipes(printed, log, life, told, heard)
        try:
            handover.send(line, request, [theirs.stdout, theirs.log, theirs.life, theirs.status, theirs.words])
        except OSError:
            found.close()
            raise
        finally:
            for descriptor in {printed, log, life, told, heard}:
                os.close(descriptor)
        return found

    def take_answer(self) -> None:
        """Once `line` is readable: who the worker is. Raises OSError if the template died over it; then `close`."""
        item, handles = handover.receive(self.line)
        if not isinstance(item.get("pid"), int):
            raise handover.Broken(f"expected a process id, got {item!r:.100}")
        self.pid, self.handle = item["pid"], handles[0] if handles else -1

    @property
    def end(self) -> int:
        """The descriptor that becomes readable when the worker has ended."""
        return self.handle if self.handle >= 0 else self.line.fileno()

    def read_status(self) -> bool:
        """Take in what the worker has said since; whether it was anything. Never blocks."""
        try:
            said = os.read(self.status, _LINE_MOST)
        except BlockingIOError:
            return False
        signs, _, code = said.partition(CODE)
        self.made = self.made or MADE in signs
        self.code = code[0] if code else self.code
        self.spoke = self.spoke or bool(said)
        return bool(said)

    def read_stdout(self, *, ended: bool = False) -> list[str]:
        """New lines of the worker's stdout, which are in its log too. Closes it at its end, or if the worker has ended:
        a child of the worker may hold the other end for long, and is not waited for."""
        text, closed = b"", False
        while not closed and len(text) < _LINE_MOST:
            try:
                piece = os.read(self.stdout, _LINE_MOST)
            except BlockingIOError:
                break
            text, closed = text + piece, not piece
        try:
            with self.post.log.open("ab") as file:
                file.write(text)
        except OSError:
            pass  # a full disk: the launcher still gets the lines
        self.unfinished += text
        *lines, self.unfinished = self.unfinished.split(b"\n")
        if self.unfinished and (ended or closed or len(self.unfinished) >= _LINE_MOST):
            lines, self.unfinished = [*lines, self.unfinished], b""
        if closed or ended:
            os.close(self.stdout)
            self.stdout = -1
        return [line.decode(errors="replace") for line in lines]

    def last_code(self) -> int | None:
        """How it ended, negative for a signal: by its own word, else by the template's, its parent; None if neither
        is known. Call it once, after its end; waits WORD_S at most."""
        self.read_status()
        if self.code is not None:
            return self.code
        if not select.select([self.line], [], [], WORD_S)[0]:
            return None
        try:
            item, _ = handover.receive(self.line)
        except OSError:
            return None
        code = item.get("ended")
        return code if isinstance(code, int) else None

    def ask_to_leave(self) -> None:
        """It says so to control, and ends once that lets it go."""
        try:
            os.write(self.words, LEAVE)
        except OSError:
            pass  # it has just ended

    def kill(self) -> None:
        if self.handle >= 0 and sys.platform == "linux":
            pids.kill(self.handle)
        else:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close what is ours; a worker that still lives dies of that."""
        self.line.close()
        for descriptor in (self.hold, self.status, self.handle, self.stdout, self.words):
            if descriptor >= 0:
                os.close(descriptor)
