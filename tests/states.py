"""What a training has come to, and what it has saved."""

from __future__ import annotations

from pathlib import Path

import torch

from lightwatch.checkpoints import checkpoints_in
from lightwatch.snapshot import Snapshot
from lightwatch.trainer import Trainer


def saved(folder: Path) -> list[int]:
    """The versions of the checkpoints in a folder."""
    return [found.manifest.version for found in checkpoints_in(folder) if found.manifest]


def in_full(trainer: Trainer) -> Snapshot:
    """All that its next step depends on."""
    return trainer._stepper.snapshot()


def equal(one: Snapshot, other: Snapshot) -> bool:
    """To the bit."""
    same = all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    return one.facts == other.facts and one.tensors.keys() == other.tensors.keys() and same
