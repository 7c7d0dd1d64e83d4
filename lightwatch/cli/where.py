"""Which run is meant: a folder, an address, or neither and so the newest run here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig, load
from ..errors import ConfigError, LightwatchError
from .folder import RunFolder, existing_run, newest_run, read_json


class HasEnded(LightwatchError):
    """The run is over: there is nothing left that could be ordered."""


@dataclass(frozen=True)
class Where:
    """A run to talk to. folder: None if only an address was given; address: None if the run has no control."""

    folder: RunFolder | None
    address: str | None
    key: str | None = None
    """A key file that was named."""

    @property
    def target(self) -> str:
        """What a ControlClient is given: by its folder it sees at once that a run's control is gone."""
        return str(self.folder.path) if self.folder else str(self.address)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What the run came to, if it has ended."""
        return read_json(self.folder.summary) if self.folder else None


def refuse_absent_control(where: Where) -> None:
    """Raise NoAnswer for the folder of a run on a tree that holds no address: its control has not been bound yet."""
    from control.errors import NoAnswer
    from control.tree import is_alone

    if where.address is None and where.folder is not None:
        if not is_alone(load(where.folder.config, RunConfig()).control.tree):
            raise NoAnswer(
                f"{where.folder.path}: its control is not there yet, or was not started again; ask in a moment, "
                "else see logs/control.log [LW501]"
            )


def find(arguments: argparse.Namespace) -> Where:
    """The run that the command line means. Raises ConfigError."""
    _refuse_no_key(arguments.key)
    if arguments.control is not None:
        if arguments.dir is not None:
            raise ConfigError("give a folder or --control, not both [LW001]")
        from control.config import check_connect
        from control.errors import ControlError

        try:
            check_connect(arguments.control)
        except ControlError as error:
            raise ConfigError(str(error)) from None
        return Where(None, arguments.control, arguments.key)
    folder = newest_run() if arguments.dir is None else existing_run(arguments.dir)
    card = read_json(folder.address)
    return Where(folder, str(card["address"]) if card and "address" in card else None, arguments.key)


def _refuse_no_key(file: str | None) -> None:
    """Raise ConfigError for a file that was named and can't be used."""
    if file is None:
        return
    from control.errors import KeyFileError
    from control.keyfile import read_key

    try:
        read_key(Path(file))
    except KeyFileError as error:
        raise ConfigError(str(error)) from None
