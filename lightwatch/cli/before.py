"""What a run's folder says of the run so far: its number, how it stands, from where it would go on."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoints import checkpoints_in, newest_whole
from ..config import RunConfig, load
from ..errors import ConfigError, DataError
from ..manifest import Manifest
from .folder import RunFolder

if TYPE_CHECKING:
    from control.record import RunRecord


@dataclass(frozen=True)
class Before:
    """What the folder says of the run so far. status: unfinished if whoever kept the ledger was killed. lineage: the
    newest, and the version at which it began."""

    run_id: str
    status: str
    lineage: int = 0
    lineage_began_at: int = 0

    def came_by(self, manifest: Manifest) -> bool:
        """Whether this checkpoint of the run's is on the way to where it stood."""
        return manifest.lineage == self.lineage or manifest.version <= self.lineage_began_at


def so_far(folder: RunFolder) -> Before:
    """The run's number and how it stands. Where the ledger was lost, a checkpoint knows the number."""
    from control.errors import LedgerError
    from control.record import read_record

    if folder.ledger.exists():
        try:
            record: RunRecord = read_record(folder.ledger)
        except LedgerError as error:
            raise ConfigError(str(error)) from None
        return Before(record.run_id, record.status, record.lineage, record.lineage_began_at)
    kept = newest_whole(folder.path / load(folder.config, RunConfig()).training.checkpoint_dir).manifest
    if kept is None:
        raise ConfigError(f"{folder.path}: neither a ledger nor a checkpoint is left to go on from [LW606]")
    return Before(kept.run, "unfinished", kept.lineage)


def is_of_a_script(folder: RunFolder) -> bool:
    """Whether a script was run there, whose model and data are its own: nobody else can go on with it."""
    return "model" not in tomllib.loads(folder.config.read_text(encoding="utf-8"))


def saved_version(folder: RunFolder) -> int | None:
    """From where `train --resume` would go on, as far as manifests tell: nothing is hashed. None: nothing was saved, or
    nobody but a script can. Never raises."""
    try:
        if is_of_a_script(folder) or not folder.ledger.exists():
            return None
        before, run = so_far(folder), load(folder.config, RunConfig())
        manifests = [found.manifest for found in checkpoints_in(folder.path / run.training.checkpoint_dir)]
    except (ConfigError, DataError, OSError, ValueError):
        return None
    own = [each for each in manifests if each is not None and each.run == before.run_id and before.came_by(each)]
    return own[-1].version if own else None
