"""The process-wide settings that the bits of one gradient depend on, in one place."""

from __future__ import annotations

import os

import torch

from .errors import ConfigError


def settle_arithmetic(threads: int) -> None:
    """Fix what the bits of one gradient depend on, for the whole process. Raises ConfigError for OMP_DYNAMIC=true."""
    for name in ("OMP_DYNAMIC", "MKL_DYNAMIC"):
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"{name} is set to true: threads would follow the load and bits with them; unset it [LW702]"
            )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else a strict matmul on CUDA raises
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.benchmark = False
    # torch.use_deterministic_algorithms would import the whole of inductor for one flag: 5 s of CPU a process.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch._C._set_deterministic_algorithms(True, warn_only=False)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
