"""The digests that a run's files stand for, taken from the files alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

OF_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""How torch's own layers name their buffers: a script's model is not known here, only its file."""


def digests_of_model(path: Path, run: RunConfig | None) -> list[str]:
    """The digests that a model's file may stand for, as `lightwatch.flat.digest_of` defines them: one for the config's
    model; two for a script's, without buffers and with those of torch's layers. Empty: it is no such file."""
    from ..flat import named_tensors
    from ..model import GPT

    tensors = tensors_in(path)
    if not tensors:
        return []
    if run is None:
        by_name = sorted(tensors)
        return [hashed(tensors, by_name), hashed(tensors, sorted(by_name, key=lambda name: name.endswith(OF_BUFFERS)))]
    expected = dict(named_tensors(GPT(run.model)))  # not on the meta device, which would import all of dynamo: 2 s
    forms = [{name: (t.shape, t.dtype) for name, t in each.items()} for each in (expected, tensors)]
    return [hashed(tensors, list(expected))] if forms[0] == forms[1] else []


def digest_of_v0(path: Path) -> str:
    """The digest of the weights and buffers in a snapshot's file; empty if it holds none."""
    tensors = tensors_in(path)
    names = [name for kind in ("parameters.", "buffers.") for name in sorted(tensors) if name.startswith(kind)]
    return hashed(tensors, names) if names else ""


def tensors_in(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds; nothing if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return {}


def hashed(tensors: dict[str, Tensor], names: list[str]) -> str:
    """sha256 hex over the bytes of these tensors, in this order."""
    import torch

    sha = hashlib.sha256()
    for name in names:
        sha.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
