"""Writes checkpoints while training goes on: one copy, one thread that writes it, one save at a time.

Laws
  1. A save that can't be finished is given up and cleaned away; training goes on, and the next one is tried as if
     nothing had been. The first of a row of failures is a warning, the others are only counted.
  2. What is in flight was copied: whatever happens to the training meanwhile changes no byte of it. The copy's memory
     is kept for the next one.
  3. A checkpoint may have several writers. Each writes its part; the first, once all parts are on the disk, the
     manifest. Nobody waits for the others but in the thread.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .checkpoints import Attempt, give_up, named_folder, prune, remove, step_folder, sweep
from .errors import DataError, LightwatchError, told
from .files import flush_folder
from .manifest import Manifest, WrittenFile, read_manifest, write_manifest
from .parts import Share, manifest_of, share_of, weights_digest, write_part
from .snapshot import Snapshot

log = logging.getLogger("lightwatch")


@dataclass(frozen=True)
class Home:
    """Where a run keeps its checkpoints, and what it says of itself in them.

    folder: a relative `checkpoint_dir` lies in it. config: sections beside the trainer's own. spheres: asked at each
    save for a record of each.
    """

    folder: Path = Path()
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    tree: str = "1"
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    spheres: Callable[[], tuple[dict[str, Any], ...]] = tuple


class SaveLost(LightwatchError):
    """A save that the other writers, or control, will not finish: nothing is wrong here."""


@dataclass(frozen=True)
class Sealing:
    """What the first writer needs for the manifest. files: all parts, in order. about: more fields, from control."""

    files: Sequence[WrittenFile]
    about: dict[str, Any] = field(default_factory=dict)


class Writers(Protocol):
    """Those who write one checkpoint, as one of them sees them: its number `index` of `count`, and the `mark` of their
    files. All but `begun` are called from the thread that writes, and may block there.
    """

    index: int
    count: int
    mark: str

    def begun(self, folder: str) -> None:
        """The share was copied; it will lie in a folder of this name."""

    def written(self, part: WrittenFile) -> Sealing | None:
        """The own part is on the disk. Blocks until all are; None: the first has sealed it. Raises SaveLost."""

    def sealed(self, manifest: Manifest, sha256: str) -> None:
        """The manifest, whose file has this hash, is on the disk. Blocks until it counts. Raises SaveLost."""

    def failed(self, why: str) -> None:
        """The save can't be finished, for this reason."""

    def over(self) -> None:
        """Nothing more is done for this save here."""


class Single:
    """One process writes it all."""

    index = 0
    count = 1

    def __init__(self) -> None:
        self.mark = secrets.token_hex(4)

    def begun(self, folder: str) -> None:
        """Nobody asks."""

    def written(self, part: WrittenFile) -> Sealing | None:
        return Sealing([part])

    def sealed(self, manifest: Manifest, sha256: str) -> None:
        """It counts."""

    def failed(self, why: str) -> None:
        """Nobody asks."""

    def over(self) -> None:
        """Nobody asks."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole on the disk; or, with an error, one that was given up."""

    path: Path
    manifest: Manifest | None
    error: BaseException | None = None


class Saver:
    """Writes this process' share of checkpoints into `folder`. Its methods come from the training thread.

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
        self._share: Share | None = None
        self._done: deque[Saved] = deque()

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self, snapshot: Snapshot, about: dict[str, Any], name: str | None = None, writers: Writers | None = None
    ) -> Path:
        """Copy the share and begin to write it; the folder in which it will lie.

        about: fields of the manifest, `version` and `lineage` among them. name: of the folder, for the version's.
        writers: None: this process alone. Blocks for the copy, and before that until a save in flight is through.
        Raises ConfigError.
        """
        self.flush()
        writers = writers or Single()
        version = int(about["version"])
        path = named_folder(self.folder, name) if name else step_folder(self.folder, version, self._run)
        share = self._share = share_of(snapshot, writers.index, writers.count, self._share)
        writers.begun(path.name)
        self._thread = threading.Thread(target=self._save, args=(share, path, about, writers), name="checkpoint")
        self._thread.start()
        return path

    def flush(self) -> None:
        """Wait until nothing is in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for so long at most; whether nothing is in flight."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.busy

    def news(self) -> list[Saved]:
        """What came to its end since this was asked last, in order."""
        return [self._done.popleft() for _ in range(len(self._done))]

    # ------------------------------------------------------------ the thread

    def _save(self, share: Share, path: Path, about: dict[str, Any], writers: Writers) -> None:
        attempt = Attempt(path, self._run, f"{about['version']}.{writers.mark}")
        try:
            manifest = self._written(share, attempt, about, writers)
        except Exception as error:  # whatever it is: training must not end by it
            with contextlib.suppress(OSError):
                give_up(attempt, attempt.part(writers.index, writers.count) if writers.count > 1 else "")
            self._failed(error, path)
            self._done.append(Saved(path, None, error))
            writers.failed(told(error))
        else:
            self._succeeded(path, manifest, writers)
        finally:
            writers.over()

    def _succeeded(self, path: Path, manifest: Manifest, writers: Writers) -> None:
        if self.failed:
            log.info("checkpoints can be written again: %s", path)
        self.failed = 0
        self._done.append(Saved(path, manifest))
        try:
            if writers.index == 0:
                prune(self.folder, self._run, self._most)
        except OSError as error:
            log.warning("an old checkpoint can't be removed: %s", told(error))

    def _written(self, share: Share, attempt: Attempt, about: dict[str, Any], writers: Writers) -> Manifest:
        path = attempt.path
        sweep(self.folder, self._run, attempt)
        path.mkdir(parents=True, exist_ok=True)
        flush_folder(path.parent)
        part = write_part(share, path, attempt.part(writers.index, writers.count), self._passing)
        self._passing("parts")
        sealing = writers.written(part)
        if sealing is None:
            return read_manifest(path)
        if writers.count == 1:
            digest = Snapshot({name: flat for name, (_, flat) in share.held.items()}).digest()
        else:
            digest = weights_digest(path, sealing.files, share.forms)
        manifest = manifest_of(attempt, share, sealing.files, digest, about | sealing.about)
        sha256 = write_manifest(path, manifest, self._passing)
        self._passing("named")
        try:
            writers.sealed(manifest, sha256)
        except SaveLost:
            _unseal(path, manifest)
            raise
        return manifest

    def _failed(self, error: BaseException, path: Path) -> None:
        if isinstance(error, SaveLost):
            log.info("%s is given up: %s", path, told(error))
            return
        self.failed += 1
        tell = log.warning if self.failed == 1 else log.debug
        tell("%s is given up, training goes on: %s; the next save is tried as usual [LW608]", path, told(error))


def _unseal(path: Path, manifest: Manifest) -> None:
    """Take it away again, unless another save has taken its place."""
    with contextlib.suppress(DataError, OSError):
        if read_manifest(path) == manifest:
            remove(path)
