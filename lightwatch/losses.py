"""The loss of one micro-batch, whatever shape its inputs and targets have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .data import Batch
from .errors import ConfigError

LossFunction = Callable[[Any, Any], Tensor]

AUTOCAST: dict[str, torch.dtype | None] = {"off": None, "bf16": torch.bfloat16}
"""What the config's `autocast` means."""


def loss_of(
    model: nn.Module, batch: Batch, loss_fn: LossFunction, device: torch.device, autocast: torch.dtype | None = None
) -> Tensor:
    """A tensor without dimensions: the forward of this batch, brought to the device, and its loss.

    autocast: the type that torch's autocast computes both in, where it may. Raises ConfigError if the loss function
    gives anything else than one number.
    """
    if autocast is not None:
        with torch.autocast(device.type, dtype=autocast):
            return loss_of(model, batch, loss_fn, device)
    inputs, targets = _moved(batch.inputs, device), _moved(batch.targets, device)
    if isinstance(inputs, dict):
        outputs = model(**inputs)
    elif isinstance(inputs, list | tuple):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    loss = loss_fn(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"loss_fn must return one number, the mean loss of the micro-batch; got {got} [LW205]")
    return loss.reshape(())


def cross_entropy(label_smoothing: float) -> LossFunction:
    """Mean cross entropy over targets other than -100; classes last in the outputs, whatever stands before them.

    Raises ConfigError for outputs whose shape is not targets.shape + (classes,): nothing is broadcast in silence.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[:-1] != targets.shape or outputs.dim() != targets.dim() + 1:
            raise ConfigError(
                f"cross entropy needs outputs of shape {(*targets.shape, 'classes')} for targets of shape "
                f"{tuple(targets.shape)}, got {tuple(outputs.shape)}: give the Trainer a loss_fn of your own [LW205]"
            )
        flat = outputs.reshape(-1, outputs.shape[-1])
        return nn.functional.cross_entropy(
            flat, targets.reshape(-1), ignore_index=-100, label_smoothing=label_smoothing
        )

    return loss


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        moved = [_moved(each, device) for each in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
