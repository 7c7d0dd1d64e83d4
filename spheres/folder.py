"""What one sphere reads and writes in its run's folder."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from control.crash import here
from lightwatch.checkpoint import load_snapshot, save_snapshot
from lightwatch.config import TrainingConfig
from lightwatch.errors import DataError
from lightwatch.snapshot import Snapshot

log = logging.getLogger("lightwatch.spheres")

V0 = "v0.safetensors"
VERSIONS = "versions.jsonl"


class Folder:
    """Of the sphere at `path` of the run in `run_dir`.

    keep: called with the model once the last version is agreed, on the first sphere only, before control hears of it:
    what it writes is there when the run is over. configured: called with the trainer's config, on the first sphere.
    """

    def __init__(
        self,
        run_dir: Path,
        path: str,
        *,
        keep: Callable[[nn.Module], Path],
        configured: Callable[[TrainingConfig], None],
    ) -> None:
        self._keep = keep
        self.configured = configured
        self.v0 = run_dir / V0
        self._versions = run_dir / "spheres" / path / VERSIONS
        self._refused_v0 = self._told = False
        self._saved: tuple[str, float] | None = None

    def has_v0(self) -> bool:
        """Whether the checkpoint of last resort can be read here, as far as is known."""
        try:
            with self.v0.open("rb") as file:
                return len(file.read(8)) == 8 and not self._refused_v0
        except OSError:
            return False

    def write_v0(self, snapshot: Snapshot) -> None:
        """Whole or not at all. Raises OSError."""
        save_snapshot(snapshot, self.v0, _v0_passes)
        here("sphere.v0_written")

    def read_v0(self, digest: str | None) -> Snapshot:
        """The state of version 0, whose weights must have this digest, if one is named. Raises DataError; then
        `has_v0` says no from here on."""
        try:
            snapshot = load_snapshot(self.v0)
            if digest is not None and snapshot.digest() != digest:
                raise DataError(
                    f"{self.v0} holds weights with digest {snapshot.digest()[:16]}, this run began with {digest[:16]}: "
                    "it is another run's; begin the run anew [LW212]"
                )
        except DataError:
            self._refused_v0 = True
            raise
        return snapshot

    def save(self, model: nn.Module, digest: str, told: Callable[[Path], object] | None) -> float:
        """Keep the last version, once; how many seconds that took. told: of the file. Raises what `keep` raises."""
        if self._saved is None or self._saved[0] != digest:
            began_s = time.perf_counter()
            path = self._keep(model)
            self._saved = (digest, time.perf_counter() - began_s)
            if told is not None:
                told(path)
        return self._saved[1]

    def note(self, **facts: object) -> None:
        """One line more about a version that this process holds. A disk that refuses it is told once."""
        line = json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n"
        try:
            self._versions.parent.mkdir(parents=True, exist_ok=True)
            with self._versions.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            if not self._told:
                log.warning("%s can't be written: %s", self._versions, error)
            self._told = True


def _v0_passes(moment: str) -> None:
    if moment == "written":
        here("sphere.v0_unflushed")
    else:
        here("sphere.v0_unnamed")
