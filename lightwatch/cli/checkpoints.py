"""`lightwatch checkpoints list|verify|export|prune DIR`: what a run has saved. Only `export` loads torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checkpoints import Found, checkpoints_in, is_of_a_step, prune, why_damaged
from ..config import RunConfig, load
from ..errors import ConfigError
from ..manifest import MANIFEST, read_manifest
from .elsewhere import elsewhere
from .folder import DiskError, RunFolder
from .terminal import Terminal, spoken_count

DONE, NOT_WHOLE = 0, 1


def checkpoints(arguments: argparse.Namespace) -> int:
    """Do what was asked; the exit code. Raises ConfigError, DataError, DiskError."""
    terminal = Terminal(json_only=getattr(arguments, "json", False))
    match arguments.what:
        case "list":
            return show(arguments, terminal)
        case "verify":
            return verify(arguments, terminal)
        case "export":
            return export(arguments, terminal)
        case _:
            return thin(arguments, terminal)


def show(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """A line each, the oldest first."""
    folder, found = meant(arguments.dir)
    for each in found:
        terminal.tell(spoken(each))
    if not found:
        terminal.tell(f"{folder} holds no checkpoint")
    terminal.emit({"folder": str(folder), "checkpoints": [as_row(each) for each in found]})
    return DONE


def verify(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Hash every byte again. 1 if a checkpoint is not what was written."""
    folder, found = meant(arguments.dir)
    if not found:
        raise ConfigError(f"{folder} holds no checkpoint, so nothing that could be verified [LW606]")
    rows, damaged = [], 0
    for each in found:
        why = why_damaged(each)
        damaged += bool(why)
        rows.append(as_row(each) | {"whole": not why, "why": why or ""})
        terminal.tell(f"{each.path.name}: damaged: {why}" if why else f"{each.path.name}: whole")
    terminal.tell(f"whole: {len(found) - damaged} of {spoken_count(len(found), 'checkpoint')}")
    terminal.emit({"folder": str(folder), "checkpoints": rows, "whole": len(found) - damaged, "damaged": damaged})
    return NOT_WHOLE if damaged else DONE


def export(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Plain weights for other tools."""
    folder, found = meant(arguments.dir)
    if arguments.step is not None:
        of_step = [each.path for each in found if each.manifest and each.manifest.version == arguments.step]
        if len(of_step) != 1:
            what = f"{len(of_step)} checkpoints of version {arguments.step}"
            raise ConfigError(f"{folder} holds {what}; name the folder of one [LW606]")
        folder = of_step[0]
    from ..plain import export_checkpoint

    try:
        file = export_checkpoint(folder, arguments.to)
    except OSError as error:
        raise DiskError(f"--to {arguments.to}: {error.strerror or error} [LW604]") from None
    terminal.tell(f"{file}, and config.json beside it")
    return DONE


def thin(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Remove the oldest, run by run."""
    if arguments.keep < 1:
        raise ConfigError(f"--keep must be at least 1, got {arguments.keep} [LW002]")
    folder, found = meant(arguments.dir)
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} is one checkpoint; name the folder in which it lies [LW606]")
    runs = {each.manifest.run for each in found if each.manifest and is_of_a_step(each.path)}
    gone: list[Path] = []
    for run in sorted(runs):
        try:
            gone += prune(folder, run, arguments.keep)
        except OSError as error:
            raise DiskError(f"{folder} can't be changed: {error.strerror or error} [LW604]") from None
    for path in gone:
        terminal.tell(f"{path.name}: removed")
    terminal.tell(f"{len(gone)} of {spoken_count(len(found), 'checkpoint')} removed")
    return DONE


def meant(name: str) -> tuple[Path, list[Found]]:
    """The folder of checkpoints that DIR means, and those in it; a checkpoint's own folder holds itself.

    Raises ConfigError, DataError for a checkpoint that can't be read.
    """
    path = Path(name)
    if "\0" in name or not path.is_dir():
        raise ConfigError(f"{name!r}: there is no such folder; name a run's, or one of checkpoints [LW606]")
    if (path / MANIFEST).exists():
        return path, [Found(path, read_manifest(path))]
    config = path / "config.toml"
    folder = path / load(config, RunConfig()).training.checkpoint_dir if config.is_file() else path
    found = checkpoints_in(folder)
    if not found and (there := elsewhere(RunFolder(path, ""))):
        raise ConfigError(f"{name}: there are no checkpoints here: {there} [LW606]")
    return folder, found


def spoken(found: Found) -> str:
    """One checkpoint, as people read it."""
    kept = found.manifest
    if kept is None:
        return f"{found.path.name}: can't be read: {found.why}"
    loss = kept.metrics.get("loss")
    said = [f"{found.path.name}: version {kept.version}", f"{kept.bytes / 2**20:,.1f} MiB"]
    said += [f"lineage {kept.lineage}"] if kept.lineage else []
    said += [f"loss {loss:.4f}"] if loss is not None else []
    return ", ".join([*said, f"digest {kept.digest[:16]}…", f"run {kept.run}", f"written {kept.written_at}"])


def as_row(found: Found) -> dict[str, Any]:
    """One checkpoint, as programs read it."""
    kept = found.manifest
    if kept is None:
        return {"name": found.path.name, "why": found.why}
    names = ("run", "version", "lineage", "digest", "state_digest", "tree", "bytes", "metrics", "written_at")
    return {"name": found.path.name, **{name: getattr(kept, name) for name in names}}
