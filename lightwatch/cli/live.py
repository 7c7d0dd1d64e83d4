"""The view on a terminal: a bar for the run and a line per sphere. The only file that needs rich.

A thread of its own asks control for its status twice a second: neither the run nor its launcher waits for it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from .costs import spoken_trouble
from .rows import Row
from .status import spoken_sphere
from .terminal import Terminal, one_line
from .view import Pace, spoken_row

if TYPE_CHECKING:
    from control.status import Status

ASK_EVERY_S = 0.5
SPHERES_SHOWN = 24


class LiveView:
    """Redraws itself four times a second; leaves its last picture on the screen."""

    def __init__(self, terminal: Terminal, max_steps: int) -> None:
        self._pace = Pace(max_steps)
        self._console = Console(file=terminal.people)
        self._progress = Progress(BarColumn(bar_width=40), TextColumn("{task.description}"), console=self._console)
        total = max_steps if max_steps > 0 else None
        self._task: TaskID = self._progress.add_task("starting", total=total)
        self._live = Live(self._progress, console=self._console, refresh_per_second=4)
        self._over = threading.Event()
        self._asker: threading.Thread | None = None
        self._live.start()

    def opened(self, address: str, key: Path | None = None) -> None:
        self._asker = threading.Thread(target=self._ask, args=(address, key), name="view", daemon=True)
        self._asker.start()

    def rows(self, rows: list[Row]) -> None:
        for row in rows:
            self._pace.take(row)
        told = [row for row in rows if row.get("loss") is not None]
        if told:
            self._progress.update(self._task, completed=told[-1]["version"])
            self._progress.update(self._task, description=spoken_row(told[-1], self._pace))

    def printed(self, text: str) -> None:
        self._console.print(Text(one_line(text.expandtabs())))

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def close(self) -> None:
        self._over.set()
        if self._asker is not None:
            self._asker.join()
        self._live.update(self._progress, refresh=True)
        self._live.stop()

    def _ask(self, address: str, key: Path | None) -> None:
        from control.client import ControlClient
        from control.errors import ControlError

        with ControlClient(address, timeout_s=1.0, key=key) as client:
            while not self._over.wait(ASK_EVERY_S):
                try:
                    found = client.status()
                except ControlError:  # busy, or gone: the launcher sees which
                    continue
                self._live.update(Group(self._progress, Text("\n".join(spoken_lines(found)))))


def spoken_lines(found: Status) -> list[str]:
    """A line for each of the first spheres, and what slows them down."""
    lines = [spoken_sphere(sphere) for sphere in found.spheres[:SPHERES_SHOWN]]
    if len(found.spheres) > SPHERES_SHOWN:
        lines.append(f"and {len(found.spheres) - SPHERES_SHOWN} more")
    return lines + spoken_trouble(found)
