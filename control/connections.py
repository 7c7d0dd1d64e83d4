"""Which connections stand, who speaks over each, and which are one too many.

Whoever connects has something to say, at once: so connections that say nothing are closed, the oldest first, and a
crowd of them costs neither memory nor descriptors. Descriptors are used again: each is known from its opening on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SILENT_S = 30.0
"""So long a connection may say nothing from its begin on. A client that is idle is connected anew when it speaks."""
SILENT_MOST = 512
"""So many may be silent at once: more than spheres can come in one moment, fewer than a process has descriptors."""
SPEAKING_MOST = 4_096
"""So many may have spoken: each costs a queue and a name."""


@dataclass
class Connections:
    """By descriptor. Instants are the caller's, and rise."""

    silent: dict[int, float] = field(default_factory=dict)
    """Those that have said nothing yet, the oldest first, and since when."""
    speaking: dict[int, bytes] = field(default_factory=dict)
    """The others, and as whom they spoke last."""
    descriptor_of: dict[bytes, int] = field(default_factory=dict)

    def opened(self, descriptor: int, now_s: float) -> None:
        self.speaking.pop(descriptor, None)
        self.silent[descriptor] = now_s

    def spoke(self, descriptor: int, identity: bytes) -> bool:
        """Whether it stands; then it is this one's from now on."""
        if self.silent.pop(descriptor, None) is None and descriptor not in self.speaking:
            return False
        self.speaking[descriptor] = identity
        self.descriptor_of[identity] = descriptor
        return True

    def closed(self, descriptor: int) -> bytes | None:
        """Who has left with it: it was the last connection that spoke as this one."""
        self.silent.pop(descriptor, None)
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
        surplus = len(self.speaking) - SPEAKING_MOST
        return named + list(self.speaking)[-surplus:] if surplus > 0 else named
