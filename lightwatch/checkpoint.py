"""Model files: plain weights as safetensors, names of state_dict, tied weights once."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .errors import DataError
from .files import write_whole
from .flat import named_tensors


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
