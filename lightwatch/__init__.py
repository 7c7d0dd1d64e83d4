"""lightwatch trains one model on a tree of machines; the weights come out the same, bit for bit, on every tree.

Names are loaded when they are first used (PEP 562): `import lightwatch` costs no torch, and no sockets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from control.client import ControlClient as ControlClient
    from control.errors import AddressError as AddressError
    from control.errors import ControlError as ControlError
    from control.errors import NoAnswer as NoAnswer
    from control.errors import OrderRefused as OrderRefused
    from control.process import ControlProcess as ControlProcess

    from .callbacks import BatchEnd as BatchEnd
    from .callbacks import BatchStart as BatchStart
    from .callbacks import CallbackHandle as CallbackHandle
    from .callbacks import CallbackType as CallbackType
    from .callbacks import CheckpointWritten as CheckpointWritten
    from .callbacks import EpochEnd as EpochEnd
    from .callbacks import EpochStart as EpochStart
    from .callbacks import ErrorRaised as ErrorRaised
    from .callbacks import GradientSync as GradientSync
    from .config import GPTConfig as GPTConfig
    from .config import TrainingConfig as TrainingConfig
    from .data import Batch as Batch
    from .data import TextData as TextData
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import LightwatchError as LightwatchError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import ReductionError as ReductionError
    from .errors import RunEnded as RunEnded
    from .errors import StateError as StateError
    from .metrics import TrainingState as TrainingState
    from .model import GPT as GPT
    from .optim import clip_grad_norm_ as clip_grad_norm_
    from .optim import clip_grad_value_ as clip_grad_value_
    from .optim import grad_norm as grad_norm
    from .plain import Checkpoint as Checkpoint
    from .plain import export_checkpoint as export_checkpoint
    from .plain import load_checkpoint as load_checkpoint
    from .plain import restore_checkpoint as restore_checkpoint
    from .plain import save_checkpoint as save_checkpoint
    from .statistics import GradientStatistics as GradientStatistics
    from .statistics import gradient_statistics as gradient_statistics
    from .status import TrainingStatus as TrainingStatus
    from .trainer import Trainer as Trainer

_HOMES = {
    "lightwatch.callbacks": (
        "BatchEnd",
        "BatchStart",
        "CallbackHandle",
        "CallbackType",
        "CheckpointWritten",
        "EpochEnd",
        "EpochStart",
        "ErrorRaised",
        "GradientSync",
    ),
    "lightwatch.config": ("GPTConfig", "TrainingConfig"),
    "lightwatch.data": ("Batch", "TextData"),
    "lightwatch.errors": (
        "ConfigError",
        "DataError",
        "LightwatchError",
        "NonFiniteError",
        "ReductionError",
        "RunEnded",
        "StateError",
    ),
    "lightwatch.metrics": ("TrainingState",),
    "lightwatch.model": ("GPT",),
    "lightwatch.optim": ("clip_grad_norm_", "clip_grad_value_", "grad_norm"),
    "lightwatch.plain": (
        "Checkpoint",
        "export_checkpoint",
        "load_checkpoint",
        "restore_checkpoint",
        "save_checkpoint",
    ),
    "lightwatch.statistics": ("GradientStatistics", "gradient_statistics"),
    "lightwatch.status": ("TrainingStatus",),
    "lightwatch.trainer": ("Trainer",),
    "control.client": ("ControlClient",),
    "control.errors": ("AddressError", "ControlError", "NoAnswer", "OrderRefused"),
    "control.process": ("ControlProcess",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'lightwatch' has no attribute {name!r}")
    if home.startswith("control."):
        from ._beside import check

        check()
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
