"""`lightwatch pause`, `resume`, `stop`, `lr`, `rebalance`, `terminate`, `spawn`, `drain`, `checkpoint`, `restore`: one
order, obeyed at the same version everywhere."""

from __future__ import annotations

import argparse
import time
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
TOLD_AFTER_S = 2.0
"""Who waits for longer is told what for."""


class Wait:
    """What is told to whoever gave an order while it is not obeyed: once after a while, and at Ctrl-C."""

    def __init__(self, command: str, client: ControlClient, terminal: Terminal) -> None:
        self._command = command
        self._client = client
        self._terminal = terminal
        self._began_s = time.monotonic()
        self._is_told = False
        self.order = ""
        """Which one is waited for; empty: control has given it no number yet."""

    def go_on(self, number: int) -> None:
        """As a client's `on_wait`: say once what it waits for."""
        self.order = f"{self._command} is order {number}"
        if not self._is_told and time.monotonic() - self._began_s >= TOLD_AFTER_S:
            self._is_told = True
            self._terminal.aside(f"{self.order}; waiting: {self._what_for(number)}")

    def _what_for(self, number: int) -> str:
        from control.awaited import awaited
        from control.errors import NoAnswer

        try:
            return awaited(self._client.status(), number)
        except NoAnswer:
            return "control, which has it in its ledger, does not answer"


def order(arguments: argparse.Namespace) -> int:
    """Give the order and wait until it is obeyed. Raises ConfigError, HasEnded, KeyboardInterrupt, or what
    the client raises."""
    where = find(arguments)
    refuse_unreachable(where)
    from control.client import ControlClient

    terminal = Terminal(json_only=arguments.json)
    with ControlClient(where.target, key=where.key) as client:
        wait = Wait(arguments.command, client, terminal)
        client.on_wait = wait.go_on
        try:
            text, facts = _given(client, arguments)
        except KeyboardInterrupt:
            if not wait.order:
                raise
            raise KeyboardInterrupt(f"interrupted; {wait.order} and stands: the run obeys it all the same") from None
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
            status = client.status()
            phase = next((each.phase for each in status.spheres if each.path == arguments.path), "gone")
            return spoken_spawn(arguments.path, version, status.tree, phase), {"version": version}
        case "drain":
            version = client.drain(arguments.path, timeout_s=LEFT_S)
            done = f"{arguments.path} has left"
        case what:
            give = {"pause": client.pause, "resume": client.resume, "stop": client.stop, "rebalance": client.rebalance}
            version = give[what](timeout_s=IN_FORCE_S)
            done = {"pause": "paused", "resume": "goes on", "stop": "stopped", "rebalance": "dealt anew"}[what]
    text = done if version is None else f"{done} at version {version}"  # None: it was so from the start
    return text, {"version": version}


def spoken_spawn(path: str, version: int | None, tree: str, phase: str) -> str:
    """What has come of a spawn, and who starts the sphere: control starts none. phase: of who is or was at the path."""
    from control.awaited import AWAY
    from control.tree import parse_tree

    parent = path.rpartition("/")[0]
    comes = f"comes once a machine joins with --at {parent}" if parent else "comes once it is started there"
    launched = path in parse_tree(tree)
    if version is not None:
        who = "the run's launcher starts it" if launched else f"it {comes}"
        return f"a sphere is let in again at {path} from version {version} on: {who}"
    if phase not in AWAY:
        return f"nothing was ordered: a sphere is at {path} already"
    if not launched:
        who = f"a sphere {comes}"
    elif phase == "left":
        who = f"it was asked to leave; `lightwatch terminate {path}`, and then spawn, have the run's launcher start one"
    else:
        who = "the run's launcher starts one anew by itself"
    return f"nothing was ordered, for none was terminated at {path}: {who}"


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
