"""What a run shows while it runs: plain lines, or on a terminal a bar and a line per sphere that redraw themselves."""

from __future__ import annotations

import statistics
from collections import deque
from pathlib import Path
from typing import Protocol

from .rows import Row
from .terminal import Terminal

STEPS_FOR_PACE = 20


class View(Protocol):
    """What the launcher tells; each call is quick and never blocks."""

    def opened(self, address: str, key: Path | None = None) -> None:
        """Control listens here; key: what a client shows to it, in a run with keys."""

    def rows(self, rows: list[Row]) -> None:
        """New versions."""

    def printed(self, text: str) -> None:
        """A line that the user's script printed on the first sphere."""

    def note(self, text: str) -> None:
        """A line of the run's story."""

    def close(self) -> None:
        """Nothing more comes."""


class Pace:
    """How fast it goes and how long it will take, from the newest steps."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.version = 0
        self._steps_s: deque[float] = deque(maxlen=STEPS_FOR_PACE)
        self._tokens: deque[int] = deque(maxlen=STEPS_FOR_PACE)

    def take(self, row: Row) -> None:
        self.version = row["version"]
        if row.get("step_s"):
            self._steps_s.append(row["step_s"])
            self._tokens.append(row.get("tokens") or 0)

    @property
    def tokens_per_s(self) -> float | None:
        return sum(self._tokens) / sum(self._steps_s) if self._steps_s else None

    @property
    def eta_s(self) -> float | None:
        if not self._steps_s or self.max_steps < 0:
            return None
        return statistics.median(self._steps_s) * max(0, self.max_steps - self.version)


class PlainView:
    """A line every `log_interval` versions, and one for each evaluation."""

    def __init__(self, terminal: Terminal, max_steps: int, log_interval: int) -> None:
        self._terminal = terminal
        self._interval = log_interval
        self._pace = Pace(max_steps)

    def opened(self, address: str, key: Path | None = None) -> None:
        self.note(f"control listens at {address}")

    def rows(self, rows: list[Row]) -> None:
        for row in rows:
            self._pace.take(row)
            version = row["version"]
            is_due = version == 1 or version % self._interval == 0 or version == self._pace.max_steps
            if row.get("skipped"):
                self.note(spoken_skip(row))
            elif row.get("loss") is not None and (is_due or row.get("eval_loss") is not None):
                self._terminal.say(spoken_row(row, self._pace))
            if version == self._pace.max_steps:
                self.note("the last step is done: evaluating, and writing the model")

    def printed(self, text: str) -> None:
        self._terminal.tell(text)

    def note(self, text: str) -> None:
        self._terminal.say(text)

    def close(self) -> None:
        """Nothing is open."""


def choose_view(terminal: Terminal, max_steps: int, log_interval: int) -> View:
    """The live view where it makes sense, else plain lines."""
    if terminal.is_live:
        from .live import LiveView

        return LiveView(terminal, max_steps)
    return PlainView(terminal, max_steps, log_interval)


def spoken_row(row: Row, pace: Pace) -> str:
    """One version in a line; numbers of the newest steps, so that it doesn't flicker."""
    total = f"/{pace.max_steps}" if pace.max_steps > 0 else ""
    parts = [f"step {row['version']}{total}", f"loss {row['loss']:.4f}"]
    if row.get("eval_loss") is not None:
        parts.append(f"eval loss {row['eval_loss']:.4f}")
    if row.get("lr") is not None:
        parts.append(f"lr {row['lr']:.2e}")
    if row.get("grad_norm") is not None:
        parts.append(f"grad norm {row['grad_norm']:.2f}")
    if pace.tokens_per_s is not None:
        parts.append(f"{pace.tokens_per_s:,.0f} tokens/s")
    if pace.eta_s:
        parts.append(f"{spoken_s(pace.eta_s)} left")
    return "  ".join(parts)


def spoken_skip(row: Row) -> str:
    """A version that kept the weights of the one before, and why."""
    return f"step {row['version']} skipped: {row.get('trouble') or 'the gradient was no number'}"


def spoken_s(seconds: float) -> str:
    """Seconds as people read them: 8 s, 1 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
