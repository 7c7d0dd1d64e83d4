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
from control.protocol import Stored
from lightwatch.checkpoint import load_snapshot, save_snapshot
from lightwatch.checkpoints import checkpoints_in
from lightwatch.config import TrainingConfig
from lightwatch.errors import ConfigError, DataError
from lightwatch.manifest import Manifest, read_manifest, refuse_damaged
from lightwatch.parts import read_state
from lightwatch.saver import Home
from lightwatch.saving import differences
from lightwatch.snapshot import Snapshot

log = logging.getLogger("lightwatch.spheres")

V0 = "v0.safetensors"
VERSIONS = "versions.jsonl"
OVERRIDDEN = ("max_steps",)
"""What may differ between a checkpoint and the run that goes on from it: who resumed it has judged that."""
STORED_MOST = 32
"""Checkpoints that are told of in a roll call."""


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
        self._refused: set[Stored] = set()
        self._saved: tuple[str, float] | None = None
        self._checkpoints, self._run = run_dir, ""
        self._trains: tuple[TrainingConfig, str] | None = None

    def trains(self, home: Home, config: TrainingConfig, data: str) -> None:
        """What is trained here, on data of this fingerprint: checkpoints of anything else are refused."""
        self._checkpoints, self._run = home.folder / config.checkpoint_dir, home.run
        self._trains = config, data

    def stored(self) -> list[Stored]:
        """This run's checkpoints that can be read here, as far as is known, the newest first. Reads manifests only."""
        if self._trains is None:
            return []
        found = [
            Stored(name=path.name, lineage=manifest.lineage, version=manifest.version, digest=manifest.digest)
            for path, manifest in ((each.path, each.manifest) for each in reversed(checkpoints_in(self._checkpoints)))
            if manifest is not None and manifest.run == self._run
        ]
        return [each for each in found if each not in self._refused][:STORED_MOST]

    def whole(self, name: str) -> list[Stored]:
        """The checkpoint of this name, or the newest one (empty), if every byte of it is what was written: reads it."""
        for each in self.stored():
            path = self._checkpoints / each.name
            if name not in ("", each.name):
                continue
            try:
                refuse_damaged(path, read_manifest(path))
                return [each]
            except DataError as error:
                log.warning("passed over: %s", error)
        return []

    def read(self, stored: Stored) -> Snapshot:
        """The state in this checkpoint, every byte of it checked. Raises DataError if it is not what was written, and
        `stored` leaves it out from here on; ConfigError if it is of another config or of other data."""
        path = self._checkpoints / stored.name
        try:
            manifest = read_manifest(path)
            if (manifest.lineage, manifest.version, manifest.digest) != (stored.lineage, stored.version, stored.digest):
                raise DataError(f"{path} is another checkpoint than a moment ago [LW605]")
            self._refuse_another(path, manifest)
            return read_state(path, manifest)
        except DataError:
            self._refused.add(stored)
            raise

    def _refuse_another(self, path: Path, manifest: Manifest) -> None:
        assert self._trains is not None
        config, data = self._trains
        found = differences(manifest, config, data, OVERRIDDEN)
        if found:
            raise ConfigError(f"this is not the run that was saved in {path}: {'; '.join(found)} [LW607]")

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
