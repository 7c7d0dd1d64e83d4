"""What each kind of fault does to a world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spheres.supervise import DRAIN_S
from tests.simulation import mending
from tests.simulation.fault import Fault
from tests.simulation.faults import MOMENTS_OF_CONTROL, ORDERS
from tests.simulation.host import NOTHING, Host

if TYPE_CHECKING:
    from tests.simulation.sphere import Sphere
    from tests.simulation.world import World

WHILE_CONTROL_ACTS = frozenset(MOMENTS_OF_CONTROL)
NODES_MOST = 15
NO_TROUBLE = frozenset({"connection breaks", "control dies", "joiner", "drain", *ORDERS})
"""What no sphere is to be thrown out for."""


def strike(world: World, fault: Fault) -> None:
    """It happens now, if there is still somebody for it to happen to."""
    sphere = world.at(fault.who[0])
    of_a_sphere, of_the_world = OF_A_SPHERE.get(fault.kind), OF_THE_WORLD.get(fault.kind)
    if of_the_world is not None:
        world.say("world", str(fault))
        of_the_world(world, fault)
        if fault.kind not in NO_TROUBLE:
            world.troubled.update(world.paths)
    elif sphere is not None and of_a_sphere is not None:
        world.say("world", f"{fault} {sphere}")
        of_a_sphere(world, sphere, fault)
        if fault.kind not in NO_TROUBLE:
            world.troubled.add(sphere.path)
    else:
        return
    world.mark(f"fault {fault.kind}")


# ---------------------------------------------------------------- of one sphere


def _dies(world: World, sphere: Sphere, fault: Fault) -> None:
    world.gone(sphere, True, fault.proof, fault.back_s)


def _group_dies(world: World, sphere: Sphere, fault: Fault) -> None:
    group = sphere.path.rpartition("/")[0]
    for each in world.spheres:
        if each.alive and each.path.rpartition("/")[0] == group:
            world.gone(each, True, fault.proof, fault.back_s)


def _breaks(world: World, sphere: Sphere, fault: Fault) -> None:
    sphere.breaks = True


def _hangs(world: World, sphere: Sphere, fault: Fault) -> None:
    sphere.hung_until_s = world.now_s + 2 * fault.for_s * world.silence_s


def _stops(world: World, sphere: Sphere, fault: Fault) -> None:
    sphere.stopped_s, sphere.frozen_until_s = world.now_s, world.now_s + fault.for_s * world.silence_s


def _connection_breaks(world: World, sphere: Sphere, fault: Fault) -> None:
    world.cut(sphere)
    if fault.luck < 0.5:
        world.deaf[sphere.path] = (world.now_s, world.now_s + fault.luck * world.silence_s, True, True)


def _deaf(up: bool, down: bool) -> Callable[[World, Sphere, Fault], None]:
    def fall(world: World, sphere: Sphere, fault: Fault) -> None:
        until_s = world.now_s + fault.for_s * world.silence_s
        world.deaf[sphere.path] = (world.now_s, until_s, up, down)
        wire = sphere.link.toy_line.wire
        if wire is not None:
            wire.up.deaf_s = (world.now_s, until_s) if up else wire.up.deaf_s
            wire.down.deaf_s = (world.now_s, until_s) if down else wire.down.deaf_s

    return fall


def _apart(both: bool) -> Callable[[World, Sphere, Fault], None]:
    def part(world: World, sphere: Sphere, fault: Fault) -> None:
        other = world.at(fault.who[1])
        if other is None or other is sphere:
            return
        until_s = world.now_s + 2 * fault.for_s * world.silence_s
        world.troubled.add(other.path)
        world.say("network", f"nothing of {sphere} comes to {other}" + (", nor back" if both else ""))
        world.apart[sphere.path, other.path] = until_s
        if both:
            world.apart[other.path, sphere.path] = until_s

    return part


def _memory_flips(world: World, sphere: Sphere, fault: Fault) -> None:
    sphere.flips = "memory"


def _update_flips(world: World, sphere: Sphere, fault: Fault) -> None:
    sphere.flips = "update"


def _drain(world: World, sphere: Sphere, fault: Fault) -> None:
    """Its supervisor is asked to leave. At the deadline it ends, whatever control says."""
    if sphere.leaves_for_s is not None:
        return
    sphere.leaves_for_s = fault.back_s if fault.luck < 0.5 else float("inf")

    def too_late() -> None:
        if sphere.alive:
            world.say("world", f"{sphere} has waited long enough, and ends")
            world.mark("left too late")
            world.gone(sphere, succeeded=True, proof=fault.proof)

    world.later.append((world.now_s + DRAIN_S, too_late))
    sphere.link.ask_to_leave()


def _slow(world: World, sphere: Sphere, fault: Fault) -> None:
    world.slow(sphere.path, 1.0)
    sphere.pace_s = 1.0


# ---------------------------------------------------------------- of the world


def _all_die(world: World, fault: Fault) -> None:
    for place, sphere in enumerate(list(world.spheres)):
        if sphere.alive:
            world.gone(sphere, True, fault.proof or place % 2 == 0, fault.back_s)


def _control_dies(world: World, fault: Fault) -> None:
    if world.host.acts:  # on a machine that stands still nothing dies, nor is it started again there
        world.host.die(fault.back_s)


def _power_cut(world: World, fault: Fault) -> None:
    if world.host.stopped_until_s > world.now_s:
        return
    _control_dies(world, fault)
    world.host.disk.cut_power()
    world.host.told = world.host.told._replace(rows=NOTHING.rows)


def _lonely_call(world: World, fault: Fault) -> None:
    """Control dies while it calls, and when it is back it finds one sphere alone."""
    _control_dies(world, fault)
    _leave_one(world, fault.who[0], 3.0)


def _one_is_left(world: World, fault: Fault) -> None:
    _leave_one(world, fault.who[0], fault.for_s)


def _leave_one(world: World, place: int, for_s: float) -> None:
    """All others are cut off, and go on."""
    alone = world.paths[place % len(world.paths)]
    until_s = world.now_s + for_s * world.silence_s
    for sphere in world.spheres:
        if sphere.path != alone:
            world.cut(sphere)
            world.deaf[sphere.path] = (world.now_s, until_s, True, True)


def _control_stops(world: World, fault: Fault) -> None:
    world.host.stopped_s = world.now_s
    world.host.stopped_until_s = world.now_s + fault.for_s * world.silence_s


def _anew(world: World) -> None:
    """A control on an empty disk takes the spheres' word for what the run is."""
    world.host = world.door = Host(world, f"host {len(world.retired) + len(world.hosts) + 1}", adopt=True)
    world.hosts.append(world.host)
    world.lost_disk = True
    world.client.forget()


def _disk_lost(world: World, fault: Fault) -> None:
    if not mending.remembers(world) or world.host.adopt or world.host.stopped_until_s > world.now_s:
        return
    mending.retire(world, world.host)
    _anew(world)
    world.host.back_s = world.now_s + fault.back_s * world.silence_s


def _stale(world: World, fault: Fault) -> None:
    """Somebody starts a control with another disk, and spheres find it instead of theirs for a while."""
    stale = Host(world, f"stale host {fault.number}")
    world.hosts.append(stale)
    world.door = stale
    for place, sphere in enumerate(world.spheres):
        if place % 2 == 0:
            world.cut(sphere)

    def back() -> None:
        world.door = world.host
        mending.retire(world, stale)

    world.later.append((world.now_s + fault.for_s * world.silence_s, back))


def _succeeded(world: World, fault: Fault) -> None:
    """Control's machine stops and is taken for dead; another one with an empty disk adopts the run; then it wakes."""
    if not mending.remembers(world) or not world.host.acts or world.host.adopt:
        return
    old, silence_s = world.host, world.silence_s
    assert old.server is not None
    if all(each.link.heard.incarnation < old.server.ledger.incarnation for each in world.spheres):
        return  # nobody could tell its successor how far it has counted: --adopt asks for one that is known to be dead
    old.stopped_s, old.stopped_until_s = world.now_s, world.now_s + 4.0 * silence_s

    def take_over() -> None:
        if world.host is old and mending.remembers(world):
            _anew(world)

    def wake() -> None:
        if world.host is not old:
            world.door = old
            for sphere in world.spheres[: 1 + int(fault.luck * len(world.spheres))]:
                world.cut(sphere)

    def settle() -> None:
        world.door = world.host

    world.later.append((world.now_s + 1.6 * silence_s, take_over))
    world.later.append((world.now_s + 4.2 * silence_s, wake))
    world.later.append((world.now_s + 5.4 * silence_s, settle))


def _joiner(world: World, fault: Fault) -> None:
    if len({part for path in world.paths for part in _nodes(path)}) + 1 >= NODES_MOST:
        return
    beside = world.paths[fault.who[0] % len(world.paths)].rpartition("/")[0]
    name = f"new{fault.number}"
    path = f"{beside}/{name}" if beside else name
    world.paths = (*world.paths, path)
    world.born(path)


def _nodes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _order(world: World, fault: Fault) -> None:
    if fault.kind == "pause":
        world.paused = True
    world.client.order(fault.kind)


def _again(world: World, fault: Fault) -> None:
    world.client.again(fault.luck)


OF_A_SPHERE: dict[str, Callable[[World, Sphere, Fault], None]] = {
    "sphere dies": _dies,
    "group dies": _group_dies,
    "collective breaks": _breaks,
    "sphere hangs": _hangs,
    "sphere stops": _stops,
    "connection breaks": _connection_breaks,
    "deaf upwards": _deaf(up=True, down=False),
    "deaf downwards": _deaf(up=False, down=True),
    "deaf both ways": _deaf(up=True, down=True),
    "peers apart": _apart(both=True),
    "peers apart one way": _apart(both=False),
    "memory flips": _memory_flips,
    "update flips": _update_flips,
    "slow": _slow,
    "drain": _drain,
}

OF_THE_WORLD: dict[str, Callable[[World, Fault], None]] = {
    "all die": _all_die,
    "control dies": _control_dies,
    "power cut": _power_cut,
    "lonely call": _lonely_call,
    "one is left": _one_is_left,
    "control stops": _control_stops,
    "disk lost": _disk_lost,
    "stale control": _stale,
    "succeeded": _succeeded,
    "joiner": _joiner,
    "pause": _order,
    "resume": _order,
    "stop": _order,
    "rate": _order,
    "again": _again,
}
