"""One thing that happens to a run from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that happens. after: the name of what it waits for, and the how-manieth; and so much later; else it
    comes at `at_s`.

    Seconds are in silence_s. who: places in the tree, the last one is -1. luck: for whatever else is to be drawn.
    """

    number: int
    kind: str
    who: tuple[int, ...]
    at_s: float
    after: tuple[str, int] | None = None
    later_s: float = 0.0
    for_s: float = 1.0
    back_s: float = 0.3
    proof: bool = True
    luck: float = 0.5

    def __str__(self) -> str:
        when = f"at the {self.after[1]}. {self.after[0]!r}" if self.after else f"{self.at_s:.1f} silences in"
        return f"fault {self.number}: {self.kind}, {when}"
