"""A whole state as a value: everything that the next step depends on, by name.

Tensors are named after what they are: "parameters.<name>" and "buffers.<name>" are what a version's digest is taken
over, "hidden.<name>" are buffers that no state_dict holds, "optimizer.<...>" is what the optimizer keeps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError

PARAMETERS, BUFFERS, HIDDEN, OPTIMIZER = "parameters.", "buffers.", "hidden.", "optimizer"


@dataclass(frozen=True)
class Snapshot:
    """One version's state. tensors: by name, any dtype; a holder's are its own memory, so they are whole only until
    its next update. facts: what is no tensor, as JSON would keep it.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """The digest of the weights and buffers in it: the one that a model with this state would have."""
        return sha256_of(
            self.tensors[name]
            for kind in (PARAMETERS, BUFFERS)
            for name in sorted(each for each in self.tensors if each.startswith(kind))
        )


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """sha256 hex over the bytes of tensors, one after the other, each in the order of its elements."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON keeps it, its tensors put into `tensors`, under names that begin with `name`.

    Raises ConfigError for what JSON can't hold: only numbers, texts, None, and lists, tuples and dicts of those.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous()
        return {"tensor": name, "strides": list(value.stride())}
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, dict):
        return {"dict": [[apart(k, name, tensors), apart(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        each = [apart(one, f"{name}.{place}", tensors) for place, one in enumerate(value)]
        return {"tuple": each} if isinstance(value, tuple) else each
    raise ConfigError(
        f"{name} is a {type(value).__name__}, which no other sphere could be sent: the state of an optimizer may hold "
        "tensors, numbers, texts, lists, tuples and dicts [LW211]"
    )


def together(kept: Any, tensors: dict[str, Tensor]) -> Any:
    """What `apart` was given. Its tensors are new ones, laid out in memory as they were."""
    if isinstance(kept, list):
        return [together(each, tensors) for each in kept]
    if not isinstance(kept, dict):
        return kept
    if "tensor" in kept:
        tensor = tensors[kept["tensor"]]
        return torch.empty_strided(tensor.shape, kept["strides"], dtype=tensor.dtype).copy_(tensor)
    ((kind, held),) = kept.items()
    if kind == "float":
        return float(held)
    if kind == "tuple":
        return tuple(together(each, tensors) for each in held)
    return {together(key, tensors): together(each, tensors) for key, each in held}
