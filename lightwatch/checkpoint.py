"""Files of weights, as safetensors: a model for other tools, and a whole state for this one.

A model's file has plain weights, names of state_dict, tied weights once. A state's file has all that the next step
depends on; its metadata has the facts and a sha256 over everything, so that one flipped byte anywhere is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .errors import DataError
from .files import write_whole
from .flat import named_tensors
from .snapshot import Snapshot, sha256_of

FORMAT = "state 1"
HEAD = "lightwatch"
"""The name of the metadata's one entry."""


def save_model(model: nn.Module, path: Path) -> None:
    """Write the model's state_dict to `path`, whole or not at all. The same weights give the same bytes.

    Raises OSError (a full disk, a folder that is read-only); what was there before is then untouched.
    """
    tensors, seen = {}, set()
    names = {name for name, _ in named_tensors(model)}  # of a tied weight, the name that the digest knows it by
    for name, tensor in sorted(model.state_dict().items(), key=lambda item: (item[0] not in names, item[0])):
        home = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and home in seen:
            continue
        seen.add(home)
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    save_tensors(tensors, path)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to `path` by their names, whole or not at all. Raises OSError."""
    write_whole(path, save(tensors))


def load_model(model: nn.Module, path: Path) -> None:
    """Read weights written by `save_model` into a model of the same shape. Raises DataError, and changes nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; name a run folder whose training has ended [LW209]") from None
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} can't be read as safetensors: {error} [LW209]") from None
    own = model.state_dict()
    for name, tensor in tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = tuple(own[name].shape) if name in own else "no such name"
            raise DataError(f"{path}: {name} has shape {tuple(tensor.shape)}, the model expects {expected} [LW210]")
    held = {own[name].data_ptr() for name in tensors}
    missing = [name for name, tensor in own.items() if name not in tensors and tensor.data_ptr() not in held]
    if missing:
        raise DataError(
            f"{path} lacks {missing[0]}, which the model has: is it the model of another configuration? [LW210]"
        )
    model.load_state_dict(tensors, strict=False)


def save_snapshot(snapshot: Snapshot, path: Path, passing: Callable[[str], object] = lambda _: None) -> None:
    """Write a state to `path`, whole or not at all. The same state gives the same bytes.

    Blocks until the disk has it; needs the state's memory once more. passing: as for `write_whole`. Raises OSError.
    """
    tensors = {name: snapshot.tensors[name].cpu().clone() for name in sorted(snapshot.tensors)}
    facts = json.dumps(snapshot.facts, sort_keys=True)
    told = {"format": FORMAT, "facts": facts, "weights": snapshot.digest(), "sha256": _sha256(tensors, facts)}
    write_whole(
        path, save(tensors, metadata={HEAD: json.dumps(told)}), passing
    )  # one entry: the order of more is random


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote, into memory of its own. Raises DataError if it is not that, to the byte."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(HEAD, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: begin the run anew [LW212]") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} can't be read as safetensors: {error}; begin the run anew [LW212]") from None
    if told.get("format") != FORMAT:
        raise DataError(
            f"{path} is of the format {told.get('format')!r}, expected {FORMAT!r}: read it with the lightwatch that "
            "wrote it, or begin the run anew [LW212]"
        )
    facts = str(told.get("facts"))
    if _sha256(tensors, facts) != told.get("sha256"):
        raise DataError(f"{path} is not what was written: its sha256 differs; remove it, begin the run anew [LW212]")
    snapshot = Snapshot(tensors, json.loads(facts))
    if snapshot.digest() != told.get("weights"):
        raise DataError(f"{path} names another digest than its weights have; remove it, begin the run anew [LW212]")
    return snapshot


def _sha256(tensors: dict[str, Tensor], facts: str) -> str:
    """Over facts, names, dtypes, shapes and bytes."""
    shapes = [f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}" for name in sorted(tensors)]
    sha = hashlib.sha256("\n".join([FORMAT, facts, *shapes]).encode())
    sha.update(sha256_of(tensors[name] for name in sorted(tensors)).encode())
    return sha.hexdigest()
