"""A sphere's post: where it belongs, and what it is to do there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TOLD = ("control", "path", "script", "profile", "key", "interface", "local_rank")
"""What of it a template is told for each worker: the folder is its own."""


@dataclass(frozen=True)
class Post:
    """What a supervisor and its worker are for.

    dir: the run's folder. control: its address. path: where in the tree. template: the socket of one; empty: the
    supervisor starts its own. script: a user's and its arguments; empty: the main job of the folder's config.toml.
    profile: write one. shown: whether the launcher gets what the worker prints.
    """

    dir: Path
    control: str
    path: str
    template: str = ""
    script: tuple[str, ...] = ()
    profile: bool = False
    shown: bool = False
    key: str = ""
    """This machine's key file; empty: the one that it has for the run, if any."""
    interface: str = ""
    """By which the other spheres reach this one; empty: the one that leads to control."""
    local_rank: int | None = None
    """Which of its machine's spheres it is; None: the number that its path ends with."""

    @property
    def folder(self) -> Path:
        return self.dir / "spheres" / self.path

    @property
    def log(self) -> Path:
        return self.dir / "logs" / f"{self.path}.log"
