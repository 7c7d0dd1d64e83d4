"""A leaky bucket: how much may come at once, and how much in a second from then on. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Bucket:
    """Holds `most`, and fills again by `each_s` in a second. Instants are the caller's, and rise."""

    most: float
    each_s: float
    at_s: float = 0.0
    left: float = -1.0

    def __post_init__(self) -> None:
        if self.left < 0.0:
            self.left = self.most

    def takes(self, now_s: float) -> bool:
        """Whether one more is allowed, which then counts."""
        self.left = min(self.most, self.left + self.each_s * max(0.0, now_s - self.at_s))
        self.at_s = now_s
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True
