"""Writes checkpoints while training goes on: one copy, one thread that writes it, one save at a time.

Laws
  1. A save that can't be finished is given up and cleaned away; training goes on, and the next one is tried as if
     nothing had been. The first of a row of failures is a warning, the others are only counted.
  2. What is in flight was copied: whatever happens to the training meanwhile changes no byte of it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checkpoints import Attempt, give_up, named_folder, prune, step_folder, sweep
from .errors import told
from .files import flush_folder
from .manifest import Manifest, write_manifest
from .parts import Share, manifest_of, share_of, write_part
from .snapshot import Snapshot

log = logging.getLogger("lightwatch")


@dataclass(frozen=True)
class Home:
    """Where a run of one process keeps its checkpoints, and what it says of itself in them.

    folder: a relative `checkpoint_dir` lies in it. config: sections beside the trainer's own. spheres: asked at each
    save for a record of each.
    """

    folder: Path = Path()
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    tree: str = "1"
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    spheres: Callable[[], tuple[dict[str, Any], ...]] = tuple


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole on the disk; or, with an error, one that was given up."""

    path: Path
    manifest: Manifest | None
    error: BaseException | None = None


class Saver:
    """Writes checkpoints of one process into `folder`. Its methods come from the training thread.

    most: how many of this run stay; 0: all. passing: called at each moment of a save, for those who make it fail.
    """

    def __init__(self, folder: Path, run: str, most: int, passing: Callable[[str], object] = lambda _: None) -> None:
        self.folder = folder
        self.failed = 0
        """Saves given up in a row."""
        self._run = run
        self._most = most
        self._passing = passing
        self._thread: threading.Thread | None = None
        self._done: deque[Saved] = deque()

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, snapshot: Snapshot, about: dict[str, Any], name: str | None = None) -> Path:
        """Copy the state and begin to write it; the folder in which it will lie.

        about: fields of the manifest, `version` and `lineage` among them. name: of the folder, for the version's.
        Blocks for the copy, and before that until a save in flight is through. Raises ConfigError.
        """
        self.flush()
        version = int(about["version"])
        path = named_folder(self.folder, name) if name else step_folder(self.folder, version, self._run)
        share = share_of(snapshot)
        self._thread = threading.Thread(target=self._save, args=(share, path, about), name="checkpoint")
        self._thread.start()
        return path

    def flush(self) -> None:
        """Wait until nothing is in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def news(self) -> list[Saved]:
        """What came to its end since this was asked last, in order."""
        return [self._done.popleft() for _ in range(len(self._done))]

    # ------------------------------------------------------------ the thread

    def _save(self, share: Share, path: Path, about: dict[str, Any]) -> None:
        attempt = Attempt(path, self._run, f"{about['version']}.{secrets.token_hex(4)}")
        try:
            manifest = self._written(share, attempt, about)
        except Exception as error:  # whatever it is: training must not end by it
            with contextlib.suppress(OSError):
                give_up(attempt)
            self._failed(error, path)
            self._done.append(Saved(path, None, error))
            return
        if self.failed:
            log.info("checkpoints can be written again: %s", path)
        self.failed = 0
        self._done.append(Saved(path, manifest))
        try:
            prune(self.folder, self._run, self._most)
        except OSError as error:
            log.warning("an old checkpoint can't be removed: %s", told(error))

    def _written(self, share: Share, attempt: Attempt, about: dict[str, Any]) -> Manifest:
        path = attempt.path
        sweep(self.folder, self._run, attempt)
        path.mkdir(parents=True, exist_ok=True)
        flush_folder(path.parent)
        part = write_part(share, path, attempt.part(), self._passing)
        self._passing("parts")
        digest = Snapshot({name: flat for name, (_, flat) in share.held.items()}).digest()
        manifest = manifest_of(attempt, share, [part], digest, about)
        write_manifest(path, manifest, self._passing)
        self._passing("named")
        return manifest

    def _failed(self, error: BaseException, path: Path) -> None:
        self.failed += 1
        tell = log.warning if self.failed == 1 else log.debug
        tell("%s is given up, training goes on: %s; the next save is tried as usual [LW608]", path, told(error))
