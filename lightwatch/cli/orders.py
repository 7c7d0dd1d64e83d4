"""`lightwatch pause`, `resume`, `stop`, `lr`, `rebalance`, `terminate`, `spawn`, `drain`, `checkpoint`, `restore`: one
order, obeyed at the same version everywhere."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .terminal import Terminal
from .where import HasEnded, Where, find, refuse_absent_control

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

    terminal = Terminal(json_only=arguments.json)
    with ControlClient(where.target, key=where.key) as client:
        text, facts = _given(client, arguments)
    terminal.tell(text)
    terminal.emit({"order": arguments.command, **facts})
    return 0


def _given(client: ControlClient, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What has come of it, in words and for scripts."""
    version: int | None
    match arguments.command:
        case "checkpoint":
            folder = client.checkpoint(arguments.name, timeout_s=ON_DISK_S)
            return f"saved: {folder}", {"checkpoint": folder}
        case "restore":
            version = client.restore(arguments.name, timeout_s=ON_DISK_S)
            text = f"goes on from version {version}; the learning rate that was ordered last stays in force"
            return text, {"version": version}
        case "lr":
            version = client.set_learning_rate(arguments.rate, timeout_s=IN_FORCE_S)
            done = f"learning rate {arguments.rate:g} in force"
        case "terminate":
            version = client.terminate_sphere(arguments.path, timeout_s=IN_FORCE_S)
            done = f"the others go on without sphere {arguments.path}"
        case "spawn":
            version = client.spawn_sphere(arguments.path, timeout_s=IN_FORCE_S)
            done = f"a sphere is let in again at {arguments.path}"
        case "drain":
            version = client.drain(arguments.path, timeout_s=LEFT_S)
            done = f"{arguments.path} has left"
        case what:
            give = {"pause": client.pause, "resume": client.resume, "stop": client.stop, "rebalance": client.rebalance}
            version = give[what](timeout_s=IN_FORCE_S)
            done = {"pause": "paused", "resume": "goes on", "stop": "stopped", "rebalance": "dealt anew"}[what]
    text = done if version is None else f"{done} at version {version}"  # None: it was so from the start
    return text, {"version": version}


def refuse_unreachable(where: Where) -> None:
    """Raise HasEnded for a run that is over, ConfigError for one that never had a control."""
    summary = where.summary
    if summary is None:
        refuse_absent_control(where)
    if where.address is None:
        assert where.folder is not None
        raise ConfigError(
            f"{where.folder.path}: this run is one process without control, so it takes no orders; "
            f"Ctrl-C or SIGTERM stops it [LW512]"
        )
    if summary is not None:
        raise HasEnded(f"the run has ended: {summary.get('status')} at version {summary.get('version')} [LW511]")
