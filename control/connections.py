"""Which connections stand, who speaks over each, and which are one too many.

Whoever connects has something to say, at once: so connections that say nothing are closed, the oldest first, and a
crowd of them costs neither memory nor descriptors. Descriptors are used again: each is known from its opening on.
Those that end before they have said anything came in vain, and count for the address that they came from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SILENT_S = 30.0
"""So long a connection may say nothing from its begin on. A client that is idle is connected anew when it speaks."""
SILENT_MOST = 512
"""So many may be silent at once: more than spheres can come in one moment, fewer than a process has descriptors."""
SPEAKING_MOST = 24_576
"""So many may have spoken, a largest tree and its clients: each costs a queue and a name."""

ADDRESSES_MOST = 1_024


@dataclass
class Connections:
    """By descriptor. Instants are the caller's, and rise."""

    silent: dict[int, float] = field(default_factory=dict)
    """Those that have said nothing yet, the oldest first, and since when."""
    speaking: dict[int, bytes] = field(default_factory=dict)
    """The others, and as whom they spoke last."""
    descriptor_of: dict[bytes, int] = field(default_factory=dict)
    address_of: dict[int, str] = field(default_factory=dict)
    """Where each comes from; without those of this machine itself."""
    heard: set[str] = field(default_factory=set)
    """Addresses from which somebody has ever spoken; of those who came first."""
    vain: Counter[str] = field(default_factory=Counter)
    """By address: so many came in vain since `in_vain` was asked last."""

    def opened(self, descriptor: int, now_s: float, address: str | None = None) -> None:
        """address: empty if it can't be known; None: this machine's own."""
        self.speaking.pop(descriptor, None)
        self.silent[descriptor] = now_s
        self.address_of.pop(descriptor, None)
        if address is not None:
            self.address_of[descriptor] = address

    def spoke(self, descriptor: int, identity: bytes) -> bool:
        """Whether it stands; then it is this one's from now on."""
        if self.silent.pop(descriptor, None) is None and descriptor not in self.speaking:
            return False
        self.speaking[descriptor] = identity
        if (address := self.address_of.get(descriptor)) and len(self.heard) < ADDRESSES_MOST:
            self.heard.add(address)
        self.descriptor_of[identity] = descriptor
        return True

    def closed(self, descriptor: int) -> bytes | None:
        """Who has left with it: it was the last connection that spoke as this one."""
        if self.silent.pop(descriptor, None) is not None:
            self._came_in_vain(descriptor)
        self.address_of.pop(descriptor, None)
        identity = self.speaking.pop(descriptor, None)
        if identity is None or self.descriptor_of.get(identity) != descriptor:
            return None
        del self.descriptor_of[identity]
        return identity

    def too_many(self, now_s: float) -> list[int]:
        """Those that are to be closed now: named once. They have left when the system says so."""
        named: list[int] = []
        for descriptor, since_s in self.silent.items():
            if now_s - since_s < SILENT_S and len(self.silent) - len(named) <= SILENT_MOST:
                break
            named.append(descriptor)
        for descriptor in named:
            del self.silent[descriptor]
            self._came_in_vain(descriptor)
        surplus = len(self.speaking) - SPEAKING_MOST
        return named + list(self.speaking)[-surplus:] if surplus > 0 else named

    def spoke_in_vain(self, identity: bytes, times: int = 1) -> None:
        """What this one said counts for nothing: it might as well have come so many times and said nothing."""
        descriptor = self.descriptor_of.get(identity)
        if descriptor is not None:
            self._came_in_vain(descriptor, times)

    def in_vain(self) -> dict[str, int]:
        """By address, how many came in vain since this was asked last."""
        came, self.vain = dict(self.vain), Counter()
        return came

    def _came_in_vain(self, descriptor: int, times: int = 1) -> None:
        address = self.address_of.get(descriptor)
        if address is not None:
            self.vain[address] += times
