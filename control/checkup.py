"""What a doctor says to control, and what it hears: how a machine fits a run, before it takes part or while it does.

Control dials nobody. It says what the run is and hands the doctors' cards on to each other; doctors on two machines
then connect to each other, of their own will, so that both directions between them are really tried.
"""

from __future__ import annotations

import msgspec


class Contact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How I reached another doctor. address: by which of its own; empty: by none, though all were tried.

    bytes_per_s: from me to it, encrypted, over one connection; 0: not measured.
    """

    doctor: str
    address: str = ""
    round_trip_s: float = 0.0
    bytes_per_s: float = 0.0


class Doctor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One doctor's card: who I am, where I am reached, what I found so far.

    name: drawn for it. places: (interface, address), the one that its spheres would be reached at first. key: public
    half of the pair with which its port is locked. fingerprint: of what would be trained here; empty if it could not be
    told. done: it will not change any more. leaves: I am about to end; who has not met me need not try.
    """

    name: str
    host: str
    places: list[tuple[str, str]]
    port: int
    key: str
    fingerprint: dict[str, str] = {}
    done: bool = False
    leaves: bool = False
    contacts: list[Contact] = []


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sphere of the run, and where others reach it."""

    path: str
    host: str
    address: str
    port: int


class CheckUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """How do I fit? Said again and again while I work, with my card as it is then."""

    card: Doctor


class CheckedUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What you can compare with.

    versions: of lightwatch, torch and Python at control; there need be no torch. clock_s: control's wall clock, the one
    instant that crosses machines: it is there to be compared. fingerprint: of the run's first sphere; empty if none has
    come yet. neighbours: the spheres that are connected. doctors: the others that work now.
    """

    versions: dict[str, str]
    clock_s: float
    fingerprint: dict[str, str] = {}
    neighbours: list[Neighbour] = []
    doctors: list[Doctor] = []
