"""The doctors that work now, as control keeps them: their cards, for each other. Nothing of it is written down.

Laws
  1. A card is a level: said again and again while its doctor works, forgotten STALE_S after the last time.
  2. A card is small, and there are few: a machine that is let in can't fill control's memory with them.
"""

from __future__ import annotations

import msgspec

from .checkup import Doctor, Neighbour
from .protocol import Refused
from .state import State

STALE_S = 6.0
DOCTORS_MOST = 32
CARD_BYTES_MOST = 16 << 10
"""All cards and all neighbours together fit into one frame."""
NEIGHBOURS_MOST = 512


class Doctors:
    """Instants are the caller's, and rise."""

    def __init__(self) -> None:
        self._cards: dict[str, tuple[Doctor, float]] = {}

    def heard(self, card: Doctor, now_s: float) -> list[Doctor] | Refused:
        """The cards of the others, by name; from now on this one is among them."""
        self._cards = {name: kept for name, kept in self._cards.items() if now_s - kept[1] < STALE_S}
        if card.name not in self._cards and len(self._cards) >= DOCTORS_MOST:
            return Refused(text=f"{DOCTORS_MOST} doctors are at work already; ask again in a moment [LW507]")
        size = len(msgspec.msgpack.encode(card))
        if size > CARD_BYTES_MOST:
            return Refused(text=f"a doctor's card has at most {CARD_BYTES_MOST} bytes, this one has {size} [LW506]")
        self._cards[card.name] = (card, now_s)
        return [other for name, (other, _) in sorted(self._cards.items()) if name != card.name]


def neighbours(state: State) -> list[Neighbour]:
    """The spheres that others have to reach now."""
    return [
        Neighbour(path=seat.path, host=seat.hello.host, address=seat.hello.address, port=seat.hello.port)
        for seat in state.seats.values()
        if seat.connected and seat.hello.port and not (seat.expelled or seat.dead)
    ][:NEIGHBOURS_MOST]
