"""The main job, the one that `lightwatch train` runs: a byte-level GPT on text. The same alone and on every sphere."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from .arithmetic import settle_arithmetic, settle_cublas
from .checkpoint import save_model
from .config import RunConfig, TrainingConfig, dumps
from .corpus import refuse_other
from .data import TextData
from .errors import StateError
from .files import write_whole
from .model import GPT, generate
from .optim import Schedule
from .sync import Sync
from .trainer import Trainer

SAMPLE_BYTES = 240
PROMPT = b"def "


def build(run: RunConfig, sync: Sync | None = None, scheduler: Schedule | None = None) -> Trainer:
    """The trainer for a run's config: model, data, held-out data, all from the seed. Raises ConfigError, DataError."""
    settle_arithmetic(run.training.threads)
    torch.manual_seed(run.training.seed)
    model = GPT(run.model)
    data = TextData(run.data.path, run.data.sequence_length)
    refuse_other(run.data.path, data.fingerprint, run.data.fingerprint)
    held_out = data.held_out()
    evaluated = held_out if len(held_out) else None
    return Trainer(model, data, run.training, eval_data=evaluated, sync=sync, scheduler=scheduler)


def run_script(script: Sequence[str], seed: int) -> None:
    """Run a user's script as `python SCRIPT ARGS` would, in this process; when it leaves with 0, that is its end.

    torch is seeded first, the same on every sphere. Raises StateError if it leaves with anything else.
    """
    torch.manual_seed(seed)
    settle_cublas()
    argv, path = sys.argv, list(sys.path)
    sys.argv = list(script)
    sys.path.insert(0, str(Path(script[0]).resolve().parent))
    try:
        runpy.run_path(script[0], run_name="__main__")
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise StateError(f"{script[0]} left with {leaving.code!r} before its training ended [LW802]") from None
    finally:
        sys.argv, sys.path[:] = argv, path


def write_config(folder: Path, config: TrainingConfig, run: RunConfig) -> None:
    """Make config.toml the complete set of a script's run: the settings of its trainer, and how the tree is held."""
    own = replace(run, training=config)
    write_whole(folder / "config.toml", dumps(own, tables=("control",)).encode())


def finish(model: nn.Module, folder: Path, seed: int) -> Path:
    """Write the model, and if it is a GPT a sample of its text, into the folder. The model's path. Raises OSError."""
    path = folder / "model.safetensors"
    save_model(model, path)
    if isinstance(model, GPT):
        sample = generate(model, PROMPT, SAMPLE_BYTES, seed=seed)
        write_whole(folder / "sample.txt", PROMPT + sample)
    return path
