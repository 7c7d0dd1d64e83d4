"""Who may say what: a table of roles and messages, each cell by name."""

from __future__ import annotations

import pytest

from control.admit import ORDERS
from control.checkup import CheckUp, Doctor
from control.entrance import Brief, Enrol
from control.protocol import (
    Ask,
    Beat,
    Closed,
    Failed,
    Hello,
    Phase,
    Position,
    Proof,
    Ready,
    Row,
    StoreAdd,
    StoreDelete,
    StoreGet,
    StoreSet,
    ToControl,
)
from control.roles import Role, why_not_said

GENERATION = (1, 1)
OF_SPHERES: list[ToControl] = [
    Hello(run_id="run", path="0", pid=1, host="here"),
    Proof(fingerprint={}, micro_batches=1, max_steps=1),
    Beat(generation=GENERATION, number=1, phase=Phase.COMPUTING, position=Position()),
    Row(generation=GENERATION, version=1),
    Ready(generation=GENERATION, position=Position(), holds_state=True),
    Closed(generation=GENERATION, version=1, digest="d"),
    Failed(text="no data [LW101]"),
    StoreSet(generation=GENERATION, request=1, key="k", value=b"v"),
    StoreGet(generation=GENERATION, request=1, keys=["k"]),
    StoreAdd(generation=GENERATION, request=1, key="k", amount=1),
    StoreDelete(generation=GENERATION, request=1, key="k"),
]
LOOKING: list[ToControl] = [
    Ask(request="r", what=what)
    for what in ("status", "tree", "health", "stats", "checkpoints", "wait", "watch", "heard")
]
ASKING: list[ToControl] = [Brief(), CheckUp(card=Doctor(name="d", host="here", places=[], port=1, key=""))]
ORDERING: list[ToControl] = [Ask(request="r", what=what) for what in (*ORDERS, "anything else")]
ENROLLING: list[ToControl] = [Enrol(public="p", name="n")]
MAY = {
    Role.SPHERE: [*OF_SPHERES, *ASKING],
    Role.CLIENT: [*LOOKING, *ORDERING],
    Role.WATCHER: LOOKING,
    Role.ENROLLING: [*ENROLLING, *ASKING],
    None: [*OF_SPHERES, *ASKING, *LOOKING, *ORDERING],
}


@pytest.mark.parametrize("role", MAY, ids=str)
def test_each_role_may_say_its_own_and_nothing_else(role: Role | None) -> None:
    """A sphere can't order, a client can't report, a watcher changes nothing, a newcomer enrols or asks first what the
    run is; without keys there is nothing to enrol."""
    for message in [*OF_SPHERES, *ASKING, *LOOKING, *ORDERING, *ENROLLING]:
        assert (why_not_said(role, message) == "") == (message in MAY[role]), message


def test_a_refusal_says_the_role_and_what_it_may_not() -> None:
    """Cut to a length: what is asked for is a stranger's text."""
    assert why_not_said(Role.SPHERE, ORDERING[2]) == "a key with the role sphere may not ask for 'stop' [LW543]"
    assert why_not_said(Role.CLIENT, OF_SPHERES[3]) == "a key with the role client may not say Row [LW543]"
    assert len(why_not_said(Role.WATCHER, Ask(request="", what="x" * 10_000))) < 200
