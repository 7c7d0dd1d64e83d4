"""What is said at the door by a machine that has no key of its own yet, and the answer.

It connects with the key that the token in the join line is, which opens for this alone, and sends the public half of a
key that it has drawn itself: the secret half never leaves it. With its own key it asks what the run is. `Refused` is
the other answer to both.
"""

from __future__ import annotations

import msgspec


class Enrol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Let the machine with this public key in. Said again until it is answered; the same key counts once."""

    public: str
    name: str


class Enrolled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """It may connect with its own key from now on. name: what it is called here, perhaps with a number behind it."""

    name: str
    role: str = "sphere"


class Brief(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What is this run? I am about to start spheres for it."""


class Briefed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """That is it. config: the text of its config.toml."""

    run_id: str
    config: str
