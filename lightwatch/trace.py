"""A profile of a few steps: what one sphere did when, each thread on a lane of its own, for viewers of Chrome's traces.

Our own spans and not torch.profiler, which was tried (torch 2.13, two cores): its start loads 800 modules in 2.5 s of
CPU on each sphere, three steps of the default model are 12 to 19 MB, and it sees the threads that carry buckets only
through an experimental switch, without names. Spans cost a microsecond each and some KB in all. Whoever wants each
operator puts torch.profiler around `train_steps` in a script; nothing here is in its way.

Times are those of `time.perf_counter`, one clock for all processes of a machine: on Linux the profiles of its spheres
can be laid side by side. Standard library only.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from .errors import ConfigError, code_of, told
from .files import write_whole

STEPS = 3
WARM = 5
"""A profile begins once so many versions were made: the first are repeated, and meet everything for the first time."""
TRAINING = "training"

log = logging.getLogger("lightwatch")


class Trace:
    """Takes spans from any thread while one of its steps is made, and writes `folder`/`path`.json behind the last.

    path: the sphere's, as in "0/1". Never raises once it is made: a file that can't be written is a warning in the log.
    """

    def __init__(self, folder: Path, path: str, steps: int = STEPS) -> None:
        if steps < 1:
            raise ConfigError(f"a profile is of at least 1 step, got {steps} [LW002]")
        self.file = folder.absolute() / f"{path}.json"
        self._path = path
        self._steps = steps
        self._first: int | None = None
        self._step = 0
        self._open = self._unwritten = False
        self._begun_s = self._lapped_s = 0.0
        self._spans: list[tuple[str, str, float, float]] = []

    def step_begins(self, version: int, total: int) -> None:
        """The step from this version begins; the training ends at version `total`. Which are shown is decided once."""
        if self._first is None:
            self._first = first_shown(version, total, self._steps)
        self._step = version + 1
        self._open = self._first <= version < self._first + self._steps
        self._begun_s = self._lapped_s = time.perf_counter()

    def lap(self, name: str, unit: int | None = None) -> None:
        """On the training lane, from the last lap until now; of the micro-batch with this index."""
        shown = name if unit is None else f"{name} ({self._step}, {unit})"
        self._lapped_s = self.span(shown, self._lapped_s)

    def span(self, name: str, begin_s: float, lane: str = TRAINING) -> float:
        """From then, by `time.perf_counter`, until now, which is returned. On a lane they stand in a row or nested."""
        now_s = time.perf_counter()
        if self._open:
            self._spans.append((lane, name, begin_s, now_s))
        return now_s

    def step_ends(self) -> None:
        """The version stands. All that this step gave to other threads was waited for, so their spans are here."""
        if not self._open:
            return
        self.span(f"step {self._step}", self._begun_s)
        self._open, self._unwritten = False, True
        if self._first is not None and self._step == self._first + self._steps:
            self.write()

    def write(self) -> None:
        """Write the steps that are complete, unless that was done; fewer than wanted where the training has ended."""
        if not self._unwritten:
            return
        self._unwritten = False
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, as_json(f"sphere {self._path}", self._spans).encode())
        except OSError as error:
            why = f"{error.strerror or error} [{code_of(told(error))}]"
            log.warning("the profile can't be written to %s: %s", self.file, why)


def first_shown(version: int, total: int, steps: int) -> int:
    """The version from which the first of so many steps is shown: once it is warm, earlier if the end is near."""
    return max(version, min(WARM, total - steps))


def as_json(process: str, spans: list[tuple[str, str, float, float]]) -> str:
    """Chrome's trace format: a complete event for each (lane, name, begin, end), lanes in order of their first span.

    An enclosing span stands before those inside it, also where they begin together. Times are whole eighths of a
    microsecond: viewers add `ts` and `dur`, and only so is the end of one span exactly the beginning of the next.
    """
    lanes = {lane: number for number, lane in enumerate(dict.fromkeys([TRAINING, *(span[0] for span in spans)]), 1)}
    pid = os.getpid()
    events: list[dict[str, object]] = [_named("process_name", pid, 0, name=process)]
    for lane, number in lanes.items():
        events.append(_named("thread_name", pid, number, name=lane))
        events.append(_named("thread_sort_index", pid, number, sort_index=number))
    for lane, name, begin_s, end_s in sorted(spans, key=lambda span: (lanes[span[0]], span[2], -span[3])):
        begin_us, end_us = round(begin_s * 8e6) / 8, round(end_s * 8e6) / 8
        shown = {"ph": "X", "name": name, "cat": "lightwatch", "pid": pid, "tid": lanes[lane]}
        events.append({**shown, "ts": begin_us, "dur": end_us - begin_us})
    lines = ",\n".join(json.dumps(event) for event in events)
    return f'{{"displayTimeUnit": "ms", "traceEvents": [\n{lines}\n]}}\n'


def _named(what: str, pid: int, tid: int, **value: object) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": value}
