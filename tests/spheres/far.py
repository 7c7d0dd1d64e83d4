"""A device that is not the CPU, made of memory that is: what lies there can only be copied, as on a GPU.

torch registers such a backend for a whole process, so whoever uses this is a process of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class Far(Tensor):
    """A tensor of the device `far`."""

    held: np.ndarray[Any, np.dtype[Any]]


def register() -> None:
    """Let there be a device `far`: tensors are made there, copied to and fro, and nothing else."""
    _setup_privateuseone_for_python_backend("far")
    for name, function in (("empty.memory_format", _empty), ("empty_strided", _strided), ("_copy_from", _copy)):
        torch.library.impl(f"aten::{name}", "privateuseone")(function)


def _made(held: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    tensor: Tensor = torch._C._acc.create_empty_tensor(held.shape, torch.from_numpy(held).dtype)
    tensor.__class__ = Far
    tensor.held = held  # type: ignore[attr-defined]
    return tensor


def _empty(size: Any, dtype: torch.dtype, **_more: object) -> Tensor:
    return _made(torch.empty(size, dtype=dtype).numpy())


def _strided(size: Any, _stride: Any, dtype: torch.dtype, **_more: object) -> Tensor:
    return _empty(size, dtype)


def _copy(source: Any, target: Any, non_blocking: bool = False) -> Any:
    come = torch.from_numpy(source.held) if source.device.type == "far" else source
    (torch.from_numpy(target.held) if target.device.type == "far" else target).copy_(come)
    return target
