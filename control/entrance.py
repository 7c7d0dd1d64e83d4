"""What is said at the door by a machine that has no key of its own yet, and the answer.

It connects with the key that the token in the join line is, which opens for this alone, and sends the public half of a
key that it has drawn itself: the secret half never leaves it. `Refused` is the other answer.
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
