"""`lightwatch keys`: who may connect to a run's control; drawn, listed, revoked, or let in by a join line.

All of it is files in the run's folder: control looks at them a few times in a second, so nothing has to be told to it.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .folder import newest_run, read_json
from .terminal import Terminal

if TYPE_CHECKING:
    from control.keys import Keys

ANYWHERE = ("0.0.0.0", "[::]")
ELSEWHERE = ("192.0.2.1", 9)
"""An address of nobody's: nothing is sent there, but the system says by which of ours it would go."""


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
    key = Keys.made(folder).new(
        arguments.name, Role(arguments.role), run_id=card.get("run_id", ""), address=_seen_from_afar(card, None)
    )
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
    from control.tokens import JoinLine, Tokens

    keys = _existing(arguments.dir)
    card = read_json(keys.run_folder / "control.json") or {}
    address, run_id = _seen_from_afar(card, arguments.control), card.get("run_id", "")
    if not address or not run_id:
        raise ConfigError(f"{keys.run_folder}: its control has not been started yet, so no machine can join [LW505]")
    token = Tokens(keys).new(time.time(), arguments.machines)
    Terminal().tell(str(JoinLine(address, run_id, keys.pair.public, token)))


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


def _seen_from_afar(card: dict[str, Any], given: str | None) -> str:
    """Control's address as other machines can use it: where it listens on all, that by which this machine goes out."""
    from control.config import check_connect, split_address

    if given is not None:
        check_connect(given)
        return given
    address = str(card.get("address", ""))
    if not address:
        return ""
    host, port = split_address(address)
    return f"tcp://{_own_address() if host in ANYWHERE else host}:{port}"


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
