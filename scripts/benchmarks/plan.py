"""How a row is to be measured: what every row is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """runs: of each side, alternating. steps: of each run. peers: also those that need an environment of their own.

    folder: for what the runs write; new, and gone afterwards. tell: progress, a line at a time.
    """

    runs: int
    steps: int
    peers: bool
    folder: Path
    tell: Callable[[str], None]

    def new_folder(self, name: str) -> Path:
        """A folder of its own for one run."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


def one_core() -> int:
    """The core that both sides of a row in turns stay on; -1 where that can't be asked for."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1
