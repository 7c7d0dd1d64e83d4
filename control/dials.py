"""Whether spheres on different hosts reach each other, before they are to exchange anything: what is asked and said of
it, and what control keeps of the answers."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .terms import Member

Place: TypeAlias = tuple[str, str, str]
"""A network stack, an address on it, and the machine's key: what was reached there once needs no other proof."""


class Dial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Try to reach the larders of these, and answer Dialed. Control to a sphere, whether it trains or not yet.

    A larder is bound to the address that its sphere gives to gloo. In a run with keys it has to prove the key that it
    was drawn with, which it has told to control alone: so nobody else's answer counts.
    """

    peers: list[Member]
    within_s: float


class Dialed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What has come of it, sphere by sphere. gone: those of the tried that were not reached."""

    tried: list[int]
    gone: list[int]


class SphereDialed(msgspec.Struct, frozen=True, kw_only=True):
    """A sphere has tried to reach others. Not durable: it is asked again."""

    sphere: int
    dialed: Dialed
    at_s: float


class NewcomersReached(msgspec.Struct, frozen=True, kw_only=True):
    """The places of these are proven: those who would exchange with them reach them there, and are reached by them."""

    spheres: list[int]
    at_s: float


class Asked(msgspec.Struct, frozen=True):
    """One place dials another. sphere: whose word it is; peer: whom it dials. found: None, nothing was said yet."""

    sphere: int
    peer: int
    at_s: float
    found: bool | None = None


class Reach(msgspec.Struct, frozen=True):
    """places: that are proven. newcomers: the spheres whose place is not. asked: (from, to) -> the dial."""

    places: frozenset[Place] = frozenset()
    newcomers: frozenset[int] = frozenset()
    asked: dict[tuple[Place, Place], Asked] = msgspec.field(default_factory=dict)
