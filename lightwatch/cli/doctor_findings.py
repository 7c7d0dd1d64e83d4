"""What a doctor has found out, as plain values: gathered by `doctor`, judged by `doctor_judge`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control.checkup import CheckedUp, Contact, Doctor


class Verdict(enum.Enum):
    """A note is of what could not be tried, or need not be equal; only a fault keeps the machine out."""

    OK = "ok"
    NOTE = "note"
    FAULT = "FAULT"


@dataclass(frozen=True)
class Check:
    """One line of the answer. name: what was looked at; about: at or from whom, where there are several."""

    name: str
    verdict: Verdict
    text: str
    about: str = ""


@dataclass(frozen=True)
class Trouble:
    """A whole sentence, with its code, that came up while looking."""

    name: str
    text: str


@dataclass(frozen=True)
class Knock:
    """An address that was connected to, by TCP alone. why: it could not be; empty: it could, in so many seconds.

    by_another: but only from another address of this machine than its spheres would have, so no way leads back to that.
    """

    round_trip_s: float = 0.0
    why: str = ""
    by_another: bool = False


@dataclass(frozen=True)
class Clock:
    """This machine's wall clock in the middle of a question to control, which took twice uncertain_s."""

    here_s: float
    there_s: float
    uncertain_s: float


@dataclass(frozen=True)
class Disk:
    """Where the run's folder would be on this machine. need_bytes: an estimate of what the run may keep there."""

    folder: str
    free_bytes: int
    need_bytes: int


@dataclass(frozen=True)
class Proof:
    """What this machine would prove as a sphere. over: whether it was told, or can't be; else time ran out."""

    fingerprint: dict[str, str] = field(default_factory=dict)
    over: bool = False


@dataclass
class Findings:
    """All of it; grows while the doctor works.

    name: the doctor's own, drawn for it. enrolled: it asks with this machine's own key, else with the line's token.
    wanted: the interface that was named; empty: none was. places: (interface, address), what spheres here would be
    reached at first. contacts: this doctor's, by the other's name. met: the newest card of each other doctor. knocks:
    at spheres, by (address, port). step_bytes: of the sums of one step. data: the path; empty: Python's own source.
    data_wanted: the fingerprint that the run's config names; empty: it names none.
    """

    control: str
    machine: str
    versions: dict[str, str]
    name: str = ""
    run_id: str = ""
    at_control: Knock | None = None
    enrolled: bool = False
    told: CheckedUp | None = None
    clock: Clock | None = None
    disk: Disk | None = None
    proof: Proof = Proof()
    wanted: str = ""
    data: str = ""
    data_wanted: str = ""
    step_bytes: int = 0
    places: list[tuple[str, str]] = field(default_factory=list)
    contacts: dict[str, Contact] = field(default_factory=dict)
    met: dict[str, Doctor] = field(default_factory=dict)
    knocks: dict[tuple[str, int], Knock] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
