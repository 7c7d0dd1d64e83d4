"""What must be equal on all spheres for their bits to be equal, field by field, in the order in which to name it."""

from __future__ import annotations

import os
import platform

import torch

from .config import TrainingConfig
from .data import Batches
from .device import name_of
from .replica import Replica

NEED_NOT_BE_EQUAL = ("log_interval", "save_interval", "checkpoint_dir", "max_checkpoints")
ARITHMETIC_ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)


def fingerprint_of(
    replica: Replica, config: TrainingConfig, data: Batches, eval_data: Batches | None
) -> dict[str, str]:
    """Field -> value. Names and versions are not enough: a tree adds the probe, a gradient's own hash."""
    from . import __version__

    settings = {f"config.{n}": str(getattr(config, n)) for n in config.names() if n not in NEED_NOT_BE_EQUAL}
    return {
        "lightwatch": __version__,
        "torch": str(torch.__version__),
        "device": name_of(replica.layout.device),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "environment": " ".join(f"{n}={os.environ[n]}" for n in ARITHMETIC_ENVIRONMENT if n in os.environ),
        "matmul_precision": f"{torch.get_float32_matmul_precision()} cudnn tf32 {torch.backends.cudnn.allow_tf32}",
        "dtype": str(torch.get_default_dtype()),
        "reduction": config.reduction,
        "optimizer": f"{type(replica.optimizer).__module__}.{type(replica.optimizer).__name__}",
        **settings,
        "layout": replica.layout.digest(),
        "data": data.fingerprint,
        "eval_data": eval_data.fingerprint if eval_data else "",
    }
