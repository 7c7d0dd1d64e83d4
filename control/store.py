"""The store through which torch's groups find each other: what spheres ask of control, and its reply.

Keys belong to a generation and go with it.
"""

from __future__ import annotations

import msgspec

from .terms import Generation


class StoreSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Put `value` under `key`."""

    generation: Generation
    request: int
    key: str
    value: bytes


class StoreGet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Answered with StoreReply once every key exists; the asker keeps the deadline."""

    generation: Generation
    request: int
    keys: list[str]
    peek: bool = False
    """True: answer at once, `found` says whether all exist."""


class StoreAdd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Add to an integer kept as decimal text; the reply holds the new value."""

    generation: Generation
    request: int
    key: str
    amount: int


class StoreDelete(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    generation: Generation
    request: int
    key: str


class StoreReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    request: int
    found: bool = True
    values: list[bytes] = []
