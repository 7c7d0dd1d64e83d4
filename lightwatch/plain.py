"""Checkpoints as plain functions, for people with a loop of their own. The format is that of a Trainer's checkpoints.

save_checkpoint("checkpoints/step-100", model, optimizer, version=100, extra={"rng": torch.get_rng_state()})
kept = restore_checkpoint("checkpoints", model, optimizer)  # the newest whole one
torch.set_rng_state(kept.extra["rng"])
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import save_tensors
from .checkpoints import Attempt, chosen, give_up
from .errors import ConfigError, DataError
from .files import flush_folder, write_whole
from .manifest import Manifest, read_manifest, write_manifest
from .parts import manifest_of, read_state, share_of, write_part
from .snapshot import BUFFERS, HIDDEN, OPTIMIZER, PARAMETERS, Snapshot, apart, together

log = logging.getLogger("lightwatch")

OWN = "own"
"""The run that checkpoints of a loop of one's own are of, unless another is named."""
EXTRA = "extra"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved, in memory of its own. path: its folder."""

    path: Path
    manifest: Manifest
    snapshot: Snapshot

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def model(self) -> dict[str, Tensor]:
        """Weights and buffers by the names of a state_dict, tied ones once."""
        return {name.partition(".")[2]: tensor for name, tensor in self._of(PARAMETERS, BUFFERS).items()}

    @property
    def optimizer(self) -> dict[str, Any] | None:
        """The optimizer's state_dict; None if none was saved."""
        kept = self.snapshot.facts.get(OPTIMIZER)
        return None if kept is None else together(kept, self.snapshot.tensors)

    @property
    def extra(self) -> Any:
        """What `save_checkpoint` was given as `extra`."""
        return together(self.snapshot.facts.get(EXTRA), self.snapshot.tensors)

    def _of(self, *kinds: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.snapshot.tensors.items() if name.startswith(kinds)}


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    version: int = 0,
    extra: Any = None,
    run: str = OWN,
) -> Path:
    """Write a checkpoint into the folder `path`, whole or not at all; an older one there is replaced. Returns `path`.

    extra: what else is to be kept: tensors, numbers, texts, None, and lists, tuples and dicts of those. Blocks until
    the disk has it. Raises ConfigError for what can't be kept, OSError; what lay there before is then as it was.
    """
    folder = Path(path)
    snapshot = _snapshot(model, optimizer, version, extra)
    share = share_of(snapshot)
    attempt = Attempt(folder, run, f"{version}.{secrets.token_hex(4)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        flush_folder(folder.parent)
        part = write_part(share, folder, attempt.part())
        old = _files_in(folder)
        about = {"version": version, "lineage": 0}
        write_manifest(folder, manifest_of(attempt, share, [part], snapshot.digest(), about))
    except BaseException:
        with contextlib.suppress(OSError):
            give_up(attempt)
        raise
    for name in old:
        (folder / name).unlink(missing_ok=True)
    return folder


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read the checkpoint in the folder `path`, or the newest whole one inside it. Every byte of it is what was saved.

    Raises DataError. What was passed over for not being whole is a warning in the log.
    """
    newest = chosen(Path(path))
    for sentence in newest.skipped:
        log.warning("passed over: %s", sentence)
    assert newest.path is not None and newest.manifest is not None
    return Checkpoint(newest.path, newest.manifest, read_state(newest.path, newest.manifest))


def restore_checkpoint(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, strict: bool = True
) -> Checkpoint:
    """Put what `load_checkpoint` reads into the model, and its optimizer's state into the optimizer.

    strict: all names and shapes must be the model's, and an optimizer that is given must have been saved. If False,
    what does not fit stays as it is, each named in a warning. Raises DataError, and then nothing has changed.
    """
    kept = load_checkpoint(path)
    own = _tensors_of(model)
    theirs = kept._of(PARAMETERS, BUFFERS, HIDDEN)
    misfits = [
        f"{name.partition('.')[2]} is {_form(theirs.get(name))} in it and {_form(own.get(name))} in the model"
        for name in sorted(own.keys() | theirs.keys())
        if _form(own.get(name)) != _form(theirs.get(name))
    ]
    state = kept.optimizer
    if optimizer is not None and state is None:
        misfits.append("the optimizer's state was not saved")
    if misfits and strict:
        raise DataError(f"{kept.path}: {misfits[0]}; strict=False takes what fits [LW210]")
    if optimizer is not None and state is not None:
        try:
            optimizer.load_state_dict(state)
        except (ValueError, KeyError) as error:
            if strict:
                raise DataError(f"{kept.path}: the optimizer does not take what was saved: {error} [LW210]") from None
            misfits.append(f"the optimizer does not take what was saved: {error}")
    for misfit in misfits:
        log.warning("%s: %s; it stays as it is", kept.path, misfit)
    with torch.no_grad():
        for name, tensor in own.items():
            if _form(tensor) == _form(theirs.get(name)):
                tensor.copy_(theirs[name])
    return kept


def export_checkpoint(path: str | Path, to: str | Path) -> Path:
    """Write `model.safetensors`, plain weights as any tool reads them, and `config.json` into the folder `to`.

    The model's file. Raises DataError; ConfigError if there is a model already; OSError.
    """
    kept, folder = load_checkpoint(path), Path(to)
    file = folder / "model.safetensors"
    if file.exists():
        raise ConfigError(f"{file} is there already: name another folder [LW602]")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = kept.manifest
    told = {"run": manifest.run, "version": manifest.version, "digest": manifest.digest, **manifest.config}
    write_whole(folder / "config.json", json.dumps(told, indent=2).encode() + b"\n")
    save_tensors(kept.model, file)
    return file


def _snapshot(model: nn.Module, optimizer: torch.optim.Optimizer | None, version: int, extra: Any) -> Snapshot:
    tensors = {name: tensor.detach().contiguous() for name, tensor in _tensors_of(model).items()}
    facts: dict[str, Any] = {"position": [0, version, 0, 0], EXTRA: apart(extra, EXTRA, tensors)}
    if optimizer is not None:
        facts[OPTIMIZER] = apart(optimizer.state_dict(), OPTIMIZER, tensors)
    return Snapshot(tensors, facts)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    kept = model.state_dict(keep_vars=True)
    buffers = {(BUFFERS if name in kept else HIDDEN) + name: buffer for name, buffer in model.named_buffers()}
    return {PARAMETERS + name: parameter for name, parameter in model.named_parameters()} | buffers


def _files_in(folder: Path) -> list[str]:
    """The files of the checkpoint that lies there now."""
    try:
        return [file.name for file in read_manifest(folder).files]
    except DataError:
        return []


def _form(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
