"""`lightwatch keys`: who may connect to a run's control; drawn, listed, revoked, or let in by a join line.

All of it is files in the run's folder: control looks at them a few times in a second, so nothing has to be told to it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .folder import newest_run, read_json
from .invite import join_line
from .reach import seen_from_afar
from .terminal import Terminal

if TYPE_CHECKING:
    from control.keys import Keys


def keys(arguments: argparse.Namespace) -> int:
    """Do what was asked for. Raises ConfigError."""
    from control.errors import AddressError, KeyFileError

    command = {"new": _new, "list": _list, "revoke": _revoke, "token": _token}[arguments.what]
    try:
        command(arguments)
    except (AddressError, KeyFileError) as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{error.filename or 'keys'}: {error.strerror or error} [LW604]") from None
    return 0


def _new(arguments: argparse.Namespace) -> None:
    """Draw a machine's key, and the run's own keys with the first one."""
    from control.keys import Keys
    from control.roles import Role

    folder = _folder(arguments.dir, make=True)
    _refuse_a_run_without(folder)
    file = Path(arguments.out or f"{arguments.name}.key")
    if file.exists():
        raise ConfigError(f"{file}: there is such a file already; name another with --out [LW541]")
    card = read_json(folder / "control.json") or {}
    address = seen_from_afar(card["address"]) if "address" in card else ""
    key = Keys.made(folder).new(arguments.name, Role(arguments.role), run_id=card.get("run_id", ""), address=address)
    key.write(file)
    Terminal().tell(f"{file}: the key of {key.name}, a {key.role}; bring it there secretly, and name it with --key")


def _list(arguments: argparse.Namespace) -> None:
    keys = _existing(arguments.dir)
    rows = [(machine, "") for machine in keys.allowed().values()]
    rows += [(machine, "revoked") for machine in keys.revoked().values()]
    for machine, state in rows:
        line = f"{machine.name:24} {machine.role.value:8} {machine.since}  {machine.public}  {state}"
        Terminal().tell(line.rstrip())


def _revoke(arguments: argparse.Namespace) -> None:
    _existing(arguments.dir).revoke(arguments.name)
    Terminal().tell(f"{arguments.name} is out, and stays out: a control that runs cuts it off within 2 s")


def _token(arguments: argparse.Namespace) -> None:
    """Print one line that lets so many machines in."""
    keys = _existing(arguments.dir)
    Terminal().tell(join_line(keys.run_folder, arguments.machines, arguments.control))


def _folder(name: str | None, *, make: bool = False) -> Path:
    if name is None:
        return newest_run().path
    folder = Path(name).absolute()
    if make and not os.path.lexists(folder):
        folder.mkdir(parents=True)
    if not folder.is_dir():
        raise ConfigError(f"{name}: there is no such folder; name the folder of a run [LW603]")
    return folder


def _existing(name: str | None) -> Keys:
    from control.keys import Keys

    keys = Keys(_folder(name))
    if not keys.exist:
        raise ConfigError(f"{keys.run_folder}: this run has no keys; `lightwatch keys new` draws some [LW541]")
    return keys


def _refuse_a_run_without(folder: Path) -> None:
    """A run that goes on without keys can't get some: its control, started anew, would take none of its spheres."""
    card = read_json(folder / "control.json")
    if card is not None and "key" not in card and not (folder / "summary.json").exists():
        raise ConfigError(
            f"{folder}: this run goes on without keys and would lose its spheres; stop it, then --resume it [LW541]"
        )
