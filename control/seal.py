"""What control puts into the manifest of a checkpoint: its own state, and a record of each sphere. Pure."""

from __future__ import annotations

import msgspec

from .state import State
from .totals import summed

ORDERS = SPHERES = 1000
"""So many of the newest orders, and of the first spheres, go into a manifest: it travels in one frame."""


def control_as_json(state: State) -> str:
    """For people, and for whoever has lost the ledger."""
    told = {
        "run_id": state.run_id,
        "incarnation": state.incarnation,
        "generation": state.running,
        "tree": state.tree,
        "members": [{"sphere": member.sphere, "path": member.path} for member in state.members],
        "next_sphere": state.next_sphere,
        "lineage": state.lineage,
        "founded": state.founded,
        "held": state.versions.held,
        "orders": [
            {"what": order.what, "version": order.version, "wanted": order.wanted} for order in state.orders[-ORDERS:]
        ],
    }
    return msgspec.json.encode(told).decode()


def spheres_as_json(state: State) -> str:
    """Where each is, what it has done since it came, and how fast it was over its newest versions."""
    seats = [seat for path in state.paths if (seat := state.seat_at(path)) is not None][:SPHERES]
    told = [
        {
            "path": seat.path,
            "sphere": seat.sphere,
            "pid": seat.hello.pid,
            "host": seat.hello.host,
            "versions": seat.account.totals.versions,
            "micro_batches": seat.account.totals.micro_batches,
            "samples": seat.account.totals.samples,
            "tokens": seat.account.totals.tokens,
            "seconds": seat.account.totals.seconds,
            "throughput": summed(seat.account.laps).throughput,
        }
        for seat in seats
    ]
    return msgspec.json.encode(told).decode()
