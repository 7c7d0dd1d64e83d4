"""A run from beginning to end: folder, processes, summary, last words, exit code. The same for `train` and `run`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError, LightwatchError, told
from ..files import write_whole
from .alone import AloneRun
from .closing import tell_end
from .launch import Launch
from .record import facts_from_ledger
from .rows import read_rows
from .settings import Settings
from .signals import Signals
from .summary import Facts, as_text, summarise
from .terminal import Terminal
from .verdict import Ended, exit_code
from .view import View, choose_view


def conduct(settings: Settings, config: str, terminal: Terminal, *, log_level: str, debug: bool) -> int:
    """Make the folder, run, sum up; the exit code. Raises ConfigError or DiskError if nothing was begun.

    config: the text of config.toml. Signals are caught until the summary is written.
    """
    if settings.point is None and not settings.again:
        settings.folder.make(config)
    else:
        settings.folder.reopen(config)
    began_s = time.monotonic()
    most = settings.run.training.max_steps if not settings.script else -1
    with contextlib.ExitStack() as stack:
        stack.enter_context(_log_to_stderr(log_level))
        view = choose_view(terminal, most, settings.run.training.log_interval)
        run = AloneRun(settings, view) if settings.alone else TreeRun(settings, view)
        signals = stack.enter_context(run.signals)
        with contextlib.closing(view), _prints_aside(terminal):
            facts = run.run()
        summary = summarise(settings, facts, read_rows(settings.folder.metrics), time.monotonic() - began_s)
        received, serves = tuple(signals.received), not settings.paths
        code = exit_code(facts.status, usage=facts.usage, signals=received, serves=serves)
        if facts.status == "failed":
            terminal.complain(facts.reason)
            if debug and facts.detail:
                sys.stderr.write(facts.detail)
        try:
            settings.folder.release()
            write_whole(settings.folder.summary, as_text(summary).encode())
        except OSError as error:
            terminal.complain(f"summary.json can't be written: {error.strerror or error} [LW601]")
            code = code or 1
    tell_end(terminal, settings.folder, summary)
    terminal.emit(summary)
    return code


class TreeRun:
    """A run on a tree: its processes' lives, and then its ledger."""

    def __init__(self, settings: Settings, view: View) -> None:
        self._settings = settings
        self._view = view
        self.signals = Signals()

    def run(self) -> Facts:
        """Blocks until all processes are gone. Raises ConfigError, leaving no folder, if control refused to begin."""
        try:
            ended = Launch(self._settings, self._view, self.signals).run()
        except ConfigError:
            self._settings.folder.unmake()
            raise
        except (LightwatchError, OSError) as error:
            ended = Ended(told(error))
        return facts_from_ledger(self._settings, ended, tuple(self.signals.received))


@contextlib.contextmanager
def _log_to_stderr(level: str) -> Iterator[None]:
    """Our own log, from this level on, in lines that begin with our name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level.upper())
    handler.setFormatter(logging.Formatter("lightwatch: %(levelname)s: %(message)s"))
    logger = logging.getLogger("lightwatch")
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, handler.level))
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Aside(io.TextIOBase):
    """Sends what is printed to the stream for people, where stdout is for the one JSON line."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._unfinished = ""

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._terminal.tell(line)
        return len(text)

    def close(self) -> None:
        if self._unfinished:
            self._terminal.tell(self._unfinished)
            self._unfinished = ""


@contextlib.contextmanager
def _prints_aside(terminal: Terminal) -> Iterator[None]:
    """While it is open, nothing that runs in this process can write to a stdout that is for JSON alone."""
    if not terminal.json_only:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    aside: Any = _Aside(terminal)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(aside):
            yield
        aside.close()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
