"""How a machine enters a run whose control is elsewhere: its key, and a folder of its own with the run's config.

Nothing is copied by hand: control tells what the run is to whoever may take part. The folder holds what the spheres of
this machine read and write; the ledger and metrics.jsonl stay with control.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from control.brief import brief
from control.enrol import enrol
from control.keyfile import KeyFile, found_key, read_key
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


def enter_by_line(line: str, name: str = "", folder: str = "", data: str = "") -> Entry:
    """With a join line: this machine is enrolled, unless it was before. name: what it is called in the list of keys.

    Blocks for some seconds. Raises KeyFileError, KeyRefused, NoAnswer, ConfigError, OSError.
    """
    wanted = JoinLine.read(line)
    key = enrol(line, name)
    return _entered(wanted.address, read_key(key), str(key), folder, data)


def enter(control: str, key: str = "", folder: str = "", data: str = "") -> Entry:
    """With a key file, or in a run without keys; an empty key: the one that this machine has for that control.

    Blocks for some seconds. Raises KeyFileError, KeyRefused, NoAnswer, ConfigError, OSError.
    """
    own = read_key(Path(key)) if key else found_key(None, "sphere", address=control)
    return _entered(control, own, os.path.abspath(key) if key else "", folder, data)


def _entered(control: str, key: KeyFile | None, key_file: str, folder: str, data: str) -> Entry:
    told = brief(control, key)
    path = Path(folder or Path("runs", told.run_id)).absolute()
    card = _card(path)
    if card and card.get("run_id") != told.run_id:
        raise ConfigError(
            f"--dir {path}: this is the folder of run {card.get('run_id')}, control at {control} has run "
            f"{told.run_id}; name another folder [LW602]"
        )
    (path / "logs").mkdir(parents=True, exist_ok=True)
    file = path / "config.toml"
    if "pid" not in card:  # else it is control's own folder, on this machine or on a disk of both
        write_whole(file, told.config.encode())
        write_whole(path / "control.json", json.dumps({"address": control, "run_id": told.run_id}).encode())
    run = config.load(file, config.RunConfig())
    if data:
        if "pid" in card:
            raise ConfigError(f"--data: {path} is control's own folder, whose config stays; name another --dir [LW602]")
        run = config.merge(run, data={"path": os.path.abspath(data)})
        write_whole(file, config.dumps(run).encode())
    return Entry(path, told.run_id, control, key_file, run)


def _card(path: Path) -> dict[str, object]:
    """Whose folder this is already; empty: nobody's."""
    try:
        found = json.loads((path / "control.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
