"""Who may take part: pure decisions over the state.

A path has one sphere at a time. Another process may take it once the former one is known dead, was thrown out, or its
connection has closed; it is another sphere then, with an id of its own.
"""

from __future__ import annotations

from .errors import TreeError
from .events import SphereExpelled
from .protocol import Hello, Proof
from .state import Seat, State
from .tree import SphereTree, check_path


def why_not_here(state: State, hello: Hello, key: str = "") -> str:
    """Why this sphere can't have a seat; empty if it can. key: that its connection has proved."""
    if hello.run_id != state.run_id:
        return f"sphere {hello.path}: its run is {hello.run_id!r}, this control's is {state.run_id!r} [LW405]"
    if state.secret and not key:
        return f"sphere {hello.path}: the run has keys, and it has shown none [LW542]"
    taken = state.seat_at(hello.path)
    if taken is not None and is_same_process(taken, hello, key):
        return ""  # also after the end: it may not have heard of it
    if state.ended is not None:
        return f"sphere {hello.path}: the run is over ({state.ended.reason}) [LW405]"
    if hello.path in state.wanted.terminated:
        return f"sphere {hello.path}: it was terminated by order, and nobody is let in there any more [LW414]"
    if hello.path not in state.paths:
        return _why_no_place(state, hello.path)
    if taken is not None and taken.connected and not taken.expelled and not follows(hello, taken, key):
        holder = taken.hello
        return f"sphere {hello.path}: the path is taken by pid {holder.pid} on {holder.host}; take another [LW405]"
    if taken is not None and not is_free_for(taken, key):
        return (
            f"sphere {hello.path}: the path is that of a machine with another key ({taken.hello.host}); take another, "
            "or revoke that machine's key if it is gone for good [LW542]"
        )
    if key and hello.port and not hello.larder_key:
        return f"sphere {hello.path}: it would hand out the state in the clear, in a run with keys [LW542]"
    return _why_out_of_reach(state, hello)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def _why_out_of_reach(state: State, hello: Hello) -> str:
    """Why it and others could not reach each other: a loopback leads to no other machine."""
    here = next((seat for seat in state.seats.values() if seat.connected and not seat.expelled), None)  # all are alike
    if here is None or _is_loopback(here.hello.address) == _is_loopback(hello.address):
        return ""
    return (
        f"sphere {hello.path}: it would be reached at {hello.address}, sphere {here.path} is at {here.hello.address}, "
        "and a loopback leads to no other machine; start all of them with control's address in the network, or with "
        "--interface [LW408]"
    )


def is_free_for(seat: Seat, key: str) -> bool:
    """Whether who shows this key may come after the sphere that has this seat. A seat is its machine's, until that
    machine is revoked or its sphere has left, was thrown out or is known dead: a connection that closed may be a cable
    that was cut."""
    keyless = not key or not seat.key  # the run has no keys, or had none when that sphere came
    return keyless or seat.key == key or bool(seat.expelled) or seat.released or seat.dead


def _why_no_place(state: State, path: str) -> str:
    """Why the tree can't grow by this path. Before the run has begun it is as it was asked for."""
    if state.begun is None and not state.wait_for:
        shown = ", ".join(state.paths[:6]) + (", …" if len(state.paths) > 6 else "")
        return f"sphere {path}: no such path in the tree {state.tree or shown!r}; it has {shown} [LW405]"
    try:
        check_path(path)
        SphereTree.of((*state.paths, path))
    except TreeError as error:
        return f"sphere {path}: there is no place for it: {error}"
    return ""


def follows(hello: Hello, seat: Seat, key: str = "") -> bool:
    """Whether this one's supervisor has seen the seat's process dead: it vouches for all before it on its host. In a
    run with keys for those of its own machine alone, whatever it says of its host."""
    same = (hello.path, hello.host, key) == (seat.path, seat.hello.host, seat.key)
    return hello.former != 0 and same


def is_same_process(seat: Seat, hello: Hello, key: str = "") -> bool:
    """Whether this Hello comes from the process that has the seat, back after a broken connection.

    Its number alone doesn't tell: in a container that is started anew the next process has the same one.
    """
    own = seat.hello
    known = (own.path, own.pid, own.host, own.nonce, seat.key)
    return known == (hello.path, hello.pid, hello.host, hello.nonce, key)


def speaks_for_itself(seat: Seat, hello: Hello) -> bool:
    """Whether it knows what only the process that has the seat knows: then its former connection is as good as gone."""
    return hello.nonce != "" and hello.nonce == seat.hello.nonce


def of_revoked(state: State, allowed: frozenset[str] | None, now_s: float) -> list[SphereExpelled]:
    """Out with the spheres of machines that may not take part any more. allowed: public keys; None: there are none."""
    if allowed is None or state.ended is not None:
        return []
    seats = [seat for seat in state.seats.values() if seat.key not in allowed and not seat.expelled and not seat.unseen]
    why = "is of a machine whose key was revoked [LW542]"
    return [SphereExpelled(sphere=seat.sphere, text=f"{seat.name} {why}", at_s=now_s) for seat in seats]


def differences(former: dict[str, str], fingerprint: dict[str, str]) -> list[str]:
    """What makes those with whom a run goes on others than those it had: its bits may then be others too."""
    return [
        f"{name} was {was!r} so far and is {fingerprint.get(name)!r} now: from here on the run's bits may be other "
        "ones than it would have had"
        for name, was in former.items()
        if fingerprint.get(name) != was
    ]


def why_not_equal(first: Proof, path: str, proof: Proof) -> str:
    """The first field in which a proof differs from the first admitted one's; empty if it is equal."""
    ours: dict[str, object] = {**first.fingerprint, "micro_batches": first.micro_batches, "max_steps": first.max_steps}
    theirs: dict[str, object] = {
        **proof.fingerprint,
        "micro_batches": proof.micro_batches,
        "max_steps": proof.max_steps,
    }
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            return (
                f"sphere {path}: its {name} is {theirs.get(name)!r}, the others' is {ours.get(name)!r}; "
                "the same bits need the same on all [LW403]"
            )
    return ""
