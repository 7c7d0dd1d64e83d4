"""`lightwatch pause`, `resume` and `stop`: one order, in force at the same version on every sphere."""

from __future__ import annotations

import argparse

from ..errors import ConfigError
from .terminal import Terminal
from .where import HasEnded, Where, find

IN_FORCE_S = 60.0
"""An order takes effect at the end of a step; a step may be long."""


def order(arguments: argparse.Namespace) -> int:
    """Give the order and wait until it is in force. Raises ConfigError, HasEnded, or what the client raises."""
    where = find(arguments)
    refuse_unreachable(where)
    from control.client import ControlClient

    what = str(arguments.command)
    with ControlClient(where.target) as client:
        give = {"pause": client.pause, "resume": client.resume, "stop": client.stop}[what]
        version = give(timeout_s=IN_FORCE_S)
    done = {"pause": "paused", "resume": "goes on", "stop": "stopped"}[what]
    Terminal().tell(done if version is None else f"{done} at version {version}")  # None: it was so from the start
    return 0


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
