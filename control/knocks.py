"""Who knocks in vain too often, by address: from there nobody is let in for a while. Pure.

A handshake costs control some tenths of a millisecond, and who makes it next to nothing. So what is limited is not what
strangers say, but how often they come: a connection that closed before it said anything that counts was in vain.

Laws
  1. A connection that stands is never touched, nor who comes from an address from which few come in vain.
  2. Where it can't be known from where they came (they were gone before anybody could look, or came by IPv6), and they
     are too many, most newcomers from addresses where nobody speaks are kept out, whoever they are.
  3. It costs control a bounded memory, however many addresses there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .bucket import Bucket

AT_ONCE, EACH_S = 100.0, 10.0
"""Connections in vain of one address, in a moment and in a second from then on."""
BARRED_S = 10.0
ADDRESSES_MOST, BARRED_MOST = 4_096, 256
UNKNOWN = ""
"""The address of those that had gone."""


@dataclass(frozen=True)
class Shut:
    """To whom the door is shut now. thinned: also to most of those that nobody here knows."""

    barred: frozenset[str] = frozenset()
    thinned: bool = False


@dataclass
class Knocks:
    """Instants are the caller's, and rise."""

    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _until_s: dict[str, float] = field(default_factory=dict)

    def in_vain(self, address: str, now_s: float) -> bool:
        """One more came from there for nothing. Whether from now on the door is shut to it, and was not."""
        if address in self._until_s:
            return False
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= ADDRESSES_MOST:
                self._buckets = {UNKNOWN: self._buckets[UNKNOWN]} if UNKNOWN in self._buckets else {}
            bucket = self._buckets[address] = Bucket(AT_ONCE, EACH_S, now_s)
        if bucket.takes(now_s) or len(self._until_s) >= BARRED_MOST:
            return False
        self._until_s[address] = now_s + BARRED_S
        return True

    def shut(self, now_s: float) -> Shut:
        """As it is to be now. Whom it is open to again may come in vain as often as one who never did."""
        self._until_s = {address: until_s for address, until_s in self._until_s.items() if now_s < until_s}
        return Shut(frozenset(self._until_s) - {UNKNOWN}, UNKNOWN in self._until_s)
