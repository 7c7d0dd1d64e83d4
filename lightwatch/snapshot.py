"""A whole state as a value: everything that the next step depends on, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """One version's state. tensors: by name, any dtype; a holder's are its own memory, so they are whole only until
    its next update. facts: what is no tensor, as JSON would keep it.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
