"""How a world is mended: once for all in the end, and whenever a control has ended itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tests.simulation import laws
from tests.simulation.host import Host

if TYPE_CHECKING:
    from tests.simulation.world import World


def remembers(world: World) -> bool:
    """Whether somebody who lives could tell a control without a ledger of the run."""
    return any(each.alive and each.link.remembers for each in world.spheres)


def retire(world: World, host: Host) -> None:
    """Its process is killed for good."""
    if host in world.hosts:
        world.hosts.remove(host)
    if host.server is not None:
        host.die(0.0)
    world.retired.append(host)


def fenced(world: World, host: Host) -> None:
    """A control has ended itself, since another one acts. If it was the one to act, it is told to adopt."""
    if host is not world.host:
        world.retired.append(host)
        if world.door is host:
            world.door = world.host
        return
    later = max((each.incarnation for each in (*world.hosts, *world.retired) if each is not host), default=0)
    laws.only_the_superseded_are_fenced(later > host.incarnation, host.name)
    host.die(0.3)
    host.told_to_adopt()
    world.hosts.append(host)


def heal(world: World) -> None:
    """From here on nothing is broken any more."""
    world.say("world", "all is mended")
    world.deaf.clear()
    world.apart.clear()
    world.later.clear()
    world.door = world.host
    for host in list(world.hosts):
        for wire in host.gate.wires:
            wire.up.deaf_s = wire.down.deaf_s = (0.0, -1.0)
        if host is not world.host:
            retire(world, host)
    world.host.stopped_until_s = 0.0
    if world.host.adopt and not remembers(world):
        _begin_anew(world)
    for sphere in world.spheres:
        sphere.frozen_until_s = sphere.hung_until_s = 0.0
        sphere.breaks = False
    if world.paused:
        world.client.give_up()
        world.client.order("resume")


def _begin_anew(world: World) -> None:
    """Nobody is left who remembers the run: a person gives up adopting it."""
    state = world.host.server.state if world.host.server is not None else None
    if state is None or state.begun is None:
        world.host.die(0.2)
        world.host.adopt = False
        world.begins_anew()
        fill(world, world.paths)
        world.founding = None


def fill(world: World, paths: Collection[str]) -> None:
    """Somebody comes to each of these places at which nobody is."""
    there = {each.path for each in world.spheres if each.alive} | {path for _, path, _ in world.newborn}
    for path in paths:
        if path not in there:
            world.born(path)
