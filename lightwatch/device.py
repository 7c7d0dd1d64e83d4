"""Which device a sphere computes on: the config says of what kind, the local rank which one of its machine's.

Laws
  1. A GPU is used where the config asks for one. A model that its script has put on a GPU stays on that one.
  2. With `device = "cpu"` CUDA is not asked anything.

What needs a GPU to be run is `gpus`, `name_of` and `identity_of` past their first line; no GPU has run them yet.
"""

from __future__ import annotations

import torch
from torch import nn

from .errors import ConfigError
from .flat import trainable_parameters

CPU = torch.device("cpu")


def device_for(wanted: str, lies_on: torch.device, local_rank: int, gpus: int) -> torch.device:
    """Where a model computes that lies on this device now, beside so many GPUs.

    wanted: as in the config. local_rank: which of its machine's spheres this is; more spheres than GPUs share them in
    turn. Raises ConfigError if no GPU is there that must be, or the model lies on one that must not be used.
    """
    if wanted == "cpu":
        if lies_on.type == "cuda":
            raise ConfigError(
                f'the model lies on {lies_on}, and the config says device = "cpu": say device = "cuda", or leave the '
                "model on the CPU [LW214]"
            )
        return lies_on
    if lies_on.type != "cpu" or (wanted == "auto" and not gpus):
        return lies_on
    if not gpus:
        raise ConfigError(
            'the config says device = "cuda", and torch sees no GPU here: check nvidia-smi, CUDA_VISIBLE_DEVICES and '
            'that torch is a CUDA build, or say device = "cpu" [LW213]'
        )
    return torch.device("cuda", local_rank % gpus)


def place(model: nn.Module, wanted: str, local_rank: int) -> None:
    """Bring the model to where this sphere computes; one that lies in several places stays. Raises ConfigError."""
    lies_on = {parameter.device for _, parameter in trainable_parameters(model)}
    if len(lies_on) != 1:
        return
    here = lies_on.pop()
    device = device_for(wanted, here, local_rank, 0 if wanted == "cpu" else gpus())
    if device != here:
        model.to(device)


def gpus() -> int:
    """How many this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def name_of(device: torch.device) -> str:
    """What the bits of a gradient depend on, of the device: a slice of a GPU has fewer processors, and other bits."""
    if device.type != "cuda":
        return device.type
    told = torch.cuda.get_device_properties(device)
    return f"{told.name} sm_{told.major}{told.minor} of {told.multi_processor_count}, CUDA {torch.version.cuda}"


def identity_of(device: torch.device) -> str:
    """Which GPU of the world it is, for those that NCCL can reach; empty for all else."""
    if device.type != "cuda" or not torch.distributed.is_nccl_available():
        return ""
    return str(torch.cuda.get_device_properties(device).uuid)
