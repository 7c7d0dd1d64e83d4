"""The digests that a run's files stand for, taken from the files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..config import RunConfig
from ..errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

OF_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""How torch's own layers name their buffers: a script's model is not known here, only its file."""


def digests_of_model(path: Path, run: RunConfig | None) -> list[str]:
    """The digests that a model's file may stand for, as `lightwatch.flat.digest_of` defines them: one for the config's
    model; two for a script's, without buffers and with those of torch's layers. Empty: it is no such file."""
    from ..flat import named_tensors
    from ..model import GPT
    from ..snapshot import sha256_of

    tensors = tensors_in(path)
    if not tensors:
        return []
    if run is None:
        by_name = sorted(tensors)
        orders = (by_name, sorted(by_name, key=lambda name: name.endswith(OF_BUFFERS)))
        return [sha256_of(tensors[name] for name in names) for names in orders]
    expected = dict(named_tensors(GPT(run.model)))  # not on the meta device, which would import all of dynamo: 2 s
    forms = [{name: (t.shape, t.dtype) for name, t in each.items()} for each in (expected, tensors)]
    return [sha256_of(tensors[name] for name in expected)] if forms[0] == forms[1] else []


def digest_of_v0(path: Path) -> str:
    """The digest of the weights and buffers in a state's file; if it is not to the byte what was written, why."""
    from ..checkpoint import load_snapshot

    try:
        return load_snapshot(path).digest()
    except DataError as error:
        return f"no such state: {error}"


def tensors_in(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds; nothing if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return {}
