"""`lightwatch pause`, `resume`, `stop`, `checkpoint`, `restore`, `drain`: one order, obeyed at the same version everywhere."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .terminal import Terminal
from .where import HasEnded, Where, find

if TYPE_CHECKING:
    from control.client import ControlClient

IN_FORCE_S = 60.0
"""An order takes effect at the end of a step; a step may be long."""
LEFT_S = 600.0
"""A sphere leaves after a step; if it is the last one, after a checkpoint."""
ON_DISK_S = 600.0
"""A checkpoint may be large, and the disk slow."""


def order(arguments: argparse.Namespace) -> int:
    """Give the order and wait until it is obeyed. Raises ConfigError, HasEnded, or what the client raises."""
    where = find(arguments)
    refuse_unreachable(where)
    from control.client import ControlClient

    with ControlClient(where.target, key=where.key) as client:
        Terminal().tell(_given(client, arguments))
    return 0


def _given(client: ControlClient, arguments: argparse.Namespace) -> str:
    """What has come of it, in words."""
    match arguments.command:
        case "checkpoint":
            return f"saved: {client.checkpoint(arguments.name, timeout_s=ON_DISK_S)}"
        case "restore":
            version = client.restore(arguments.name, timeout_s=ON_DISK_S)
            return f"goes on from version {version}; the learning rate that was ordered last stays in force"
        case "drain":
            version = client.drain(arguments.path, timeout_s=LEFT_S)
            return f"{arguments.path} has left at version {version}"
        case what:
            give = {"pause": client.pause, "resume": client.resume, "stop": client.stop}[what]
            version = give(timeout_s=IN_FORCE_S)
            done = {"pause": "paused", "resume": "goes on", "stop": "stopped"}[what]
            return done if version is None else f"{done} at version {version}"  # None: it was so from the start


def refuse_unreachable(where: Where) -> None:
    """Raise HasEnded for a run that is over, ConfigError for one that never had a control."""
    summary = where.summary
    if where.address is None:
        assert where.folder is not None
        raise ConfigError(
            f"{where.folder.path}: this run is one process without control, so it takes no orders; "
            f"Ctrl-C or SIGTERM stops it [LW512]"
        )
    if summary is not None:
        raise HasEnded(f"the run has ended: {summary.get('status')} at version {summary.get('version')} [LW511]")
