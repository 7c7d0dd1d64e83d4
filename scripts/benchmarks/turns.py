"""Two processes that take turns: so many steps of the one, then as many of the other, on one core.

A machine that slows down for a second slows both; what is compared was measured within the same moments. The processes
share nothing but the core: settings that one of them makes for its whole process don't reach the other.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from .processes import Cannot, last_line, started

PATIENCE_S = 300.0


class Turns:
    """In the process: `begin` before its first step, `step_end` after each. It ends when nobody asks for more."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")  # a library's prints must not come between
        os.dup2(2, 1)
        self._left = 0
        self._seconds: list[float] = []
        self._began_s = 0.0

    def begin(self) -> None:
        """Wait to be asked. Everything before is set-up and not measured."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self._left, self._seconds = int(line), []
        self._began_s = time.perf_counter()

    def step_end(self, _state: object = None) -> None:
        """A step has ended; the next one begins when this returns."""
        self._seconds.append(time.perf_counter() - self._began_s)
        self._left -= 1
        if self._left == 0:
            self._out.write(json.dumps(self._seconds) + "\n")
            self._out.flush()
            self.begin()
        self._began_s = time.perf_counter()


def alternate(
    commands: Sequence[Sequence[str]], folder: Path, *, turns: int, steps: int, warm_up: int
) -> list[list[list[float]]]:
    """Seconds of each step, by command, by turn: `turns` turns of `steps` steps each, one command after the other.

    warm_up: steps before the first turn that are not told. Raises Cannot if a process ends early.
    """
    found: list[list[list[float]]] = [[] for _ in commands]
    with ExitStack() as stack:
        logs = [folder / f"side-{number}.log" for number in range(len(commands))]
        sides = [
            stack.enter_context(started(command, log, reports=True))
            for command, log in zip(commands, logs, strict=True)
        ]
        for turn in range(-1, turns):
            for side, log, seconds in zip(sides, logs, found, strict=True):
                assert side.stdin is not None and side.stdout is not None, "both are pipes"
                try:
                    side.stdin.write(f"{warm_up if turn < 0 else steps}\n")
                    side.stdin.flush()
                except OSError:
                    raise Cannot(f"a process ended early: {last_line(log)}") from None
                if not select.select([side.stdout], [], [], PATIENCE_S)[0]:
                    raise Cannot(f"a process did not make its steps within {PATIENCE_S:g} s: {last_line(log)}")
                line = side.stdout.readline()
                if not line:
                    raise Cannot(f"a process ended early: {last_line(log)}")
                if turn >= 0:
                    seconds.append(json.loads(line))
    return found
