"""`lightwatch tree`, `health`, `stats`, `events`, `wait`: what control knows of a run that goes on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .orders import refuse_unreachable
from .status import as_builtins, spoken_status
from .terminal import Terminal, spoken_count
from .view import spoken_s
from .where import find

if TYPE_CHECKING:
    from control.client import ControlClient
    from control.status import NodeStats, SphereHealth


def question(arguments: argparse.Namespace) -> int:
    """Ask and show. Raises ConfigError, HasEnded, or what the client raises."""
    where = find(arguments)
    refuse_unreachable(where)
    from control.client import ControlClient

    terminal = Terminal(json_only=arguments.json)
    with ControlClient(where.target, key=where.key) as client:
        if arguments.command == "events":
            for event in client.events():
                if event.kind != "state":
                    terminal.tell(f"{event.kind}: {event.text}")
                terminal.emit(as_builtins(event))
            return 0
        text, facts = _answered(client, arguments)
    terminal.tell(text)
    terminal.emit(facts)
    return 0


def _answered(client: ControlClient, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """In words and for scripts."""
    match arguments.command:
        case "tree":
            text = client.tree()
            return text, {"tree": text.split("\n")}
        case "health":
            health = client.health()
            alarm = [f"alarm: {health.alarm}"] if health.alarm else []
            return "\n".join([*alarm, *map(spoken_health, health.spheres)]), as_builtins(health)
        case "stats":
            stats = client.stats()
            return "\n".join(map(spoken_node, stats.values())), {
                path: as_builtins(node) for path, node in stats.items()
            }
        case _:
            found = client.wait_for(version=arguments.version, state=arguments.state, timeout_s=arguments.timeout)
            return spoken_status(found), as_builtins(found)


def spoken_health(sphere: SphereHealth) -> str:
    """One sphere in a line."""
    heard = "never heard" if sphere.heard_s is None else f"heard {sphere.heard_s:.1f} s ago"
    line = f"{sphere.path:<12} {sphere.state:<10} v{sphere.version:<6} {sphere.rss_bytes / 2**20:5.0f} MiB"
    return f"{line}  cpu {sphere.cpu_s:.1f} s  {heard}{'  ' + sphere.why if sphere.why else ''}"


def spoken_node(node: NodeStats) -> str:
    """One node in a line: what its spheres did, and where their time went."""
    name, done = node.path or ".", node.totals
    times = f"busy {spoken_s(node.busy_s)}, wait {spoken_s(node.wait_s)}, sync {spoken_s(node.sync_s)}"
    work = f"{spoken_count(done.micro_batches, 'micro-batch')}, {spoken_count(done.samples, 'sample')}"
    spheres, retries = spoken_count(node.spheres, "sphere"), f"{done.retries} retries"
    return f"{name:<12} {spheres}: {work}, {retries}; {times}; {node.bytes / 1e6:,.1f} MB"
