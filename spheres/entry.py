"""How a machine enters a run whose control is elsewhere: its key, and a folder of its own with the run's config.

Nothing is copied by hand: control tells what the run is to whoever may take part. The folder holds what the spheres of
this machine read and write; the ledger and metrics.jsonl stay with control.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from control.brief import BRIEF_S, brief, brief_by_line
from control.enrol import enrol
from control.entrance import Briefed
from control.errors import KeyRefused
from control.keyfile import found_key, own_folder, own_key, read_key
from control.tokens import JoinLine
from lightwatch import config
from lightwatch.errors import ConfigError
from lightwatch.files import write_whole


@dataclass(frozen=True)
class Entry:
    """Where this machine's spheres of a run live, and what they are started with. key: a file; empty: none is needed,
    or the one that is found is meant."""

    folder: Path
    run_id: str
    control: str
    key: str
    run: config.RunConfig


def enter_by_line(line: str, folder: str = "", data: str = "", wait_s: float = BRIEF_S) -> Entry:
    """With a join line: this machine is enrolled, unless it was before and its key is still taken. wait_s: for a
    control that does not answer yet.

    Blocks for that long, a few times at most. Raises KeyFileError, KeyRefused, NoAnswer, ConfigError, OSError.
    """
    wanted = JoinLine.read(line)
    own_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with _one_at_a_time(own_folder() / f"{wanted.run_id}.lock"):
        had = own_key(wanted.run_id, "sphere").exists()
        if not had:
            _refuse_other_run(wanted, wait_s)
        key = enrol(line, timeout_s=wait_s)
        try:
            told = brief(wanted.address, read_key(key), wait_s)
        except KeyRefused:
            if not had:
                raise
            key = enrol(line, timeout_s=wait_s, anew=True)
            told = brief(wanted.address, read_key(key), wait_s)
    return _entered(told, wanted.address, str(key), folder, data)


def _refuse_other_run(line: JoinLine, wait_s: float) -> None:
    """Raise KeyRefused if the line was put together from two; nothing of it is used up by that."""
    try:
        told = brief_by_line(line, wait_s)
    except KeyRefused:
        return  # who enrols hears why; and one who has, and missed the answer, may again
    if told.run_id != line.run_id:
        raise KeyRefused(
            f"the join line is of run {line.run_id}, control at {line.address} has run {told.run_id}: paste a line of "
            "that run, whole [LW545]"
        )


def enter(control: str, key: str = "", folder: str = "", data: str = "", wait_s: float = BRIEF_S) -> Entry:
    """With a key file, or in a run without keys; an empty key: the one that this machine has for that control.

    Blocks for wait_s at most. Raises KeyFileError, KeyRefused, NoAnswer, ConfigError, OSError.
    """
    own = read_key(Path(key)) if key else found_key(None, "sphere", address=control)
    return _entered(brief(control, own, wait_s), control, os.path.abspath(key) if key else "", folder, data)


def _entered(told: Briefed, control: str, key: str, folder: str, data: str) -> Entry:
    path = Path(folder or Path("runs", told.run_id)).absolute()
    own_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with _one_at_a_time(own_folder() / f"{told.run_id}.lock"):
        run = _written(told, control, path, data)
    return Entry(path, told.run_id, control, key, run)


def _written(told: Briefed, control: str, path: Path, data: str) -> config.RunConfig:
    """The run's config, as this machine's spheres read it from this folder."""
    card = _card(path)
    if card and card.get("run_id") != told.run_id:
        raise ConfigError(
            f"--dir {path}: this is the folder of run {card.get('run_id')}, control at {control} has run "
            f"{told.run_id}; name another folder [LW602]"
        )
    if not card and _strangers(path) and not _card(path):  # it may have come meanwhile, from another machine
        raise ConfigError(
            f"--dir {path}: expected a new folder or an empty one, found {_strangers(path)[0]} in it; name another "
            "folder [LW602]"
        )
    (path / "logs").mkdir(parents=True, exist_ok=True)
    file = path / "config.toml"
    if "pid" not in card:  # else it is control's own folder, on this machine or on a disk of both
        write_whole(path / "control.json", json.dumps({"address": control, "run_id": told.run_id}).encode())
        write_whole(file, told.config.encode())
    run = config.load(file, config.RunConfig())
    if data:
        if "pid" in card:
            raise ConfigError(f"--data: {path} is control's own folder, whose config stays; name another --dir [LW602]")
        run = config.merge(run, data={"path": os.path.abspath(data)})
        write_whole(file, config.dumps(run).encode())
    return run


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """torchrun starts a machine's supervisors at once: they share its key and its folder."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _strangers(path: Path) -> list[str]:
    """What somebody else keeps there. A card is there before anything else of a run, but for what is hidden."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else set[str]()
    return sorted(name for name in names - {"logs", "lost+found"} if not name.startswith("."))


def _card(path: Path) -> dict[str, object]:
    """Whose folder this is already; empty: nobody's."""
    try:
        found = json.loads((path / "control.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
