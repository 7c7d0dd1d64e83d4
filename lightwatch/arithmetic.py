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
    settle_cublas()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # torch's default is True: a convolution would keep 10 bits of 23
    # torch.use_deterministic_algorithms would import the whole of inductor for one flag: 5 s of CPU a process.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch._C._set_deterministic_algorithms(True, warn_only=False)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def settle_cublas() -> None:
    """Give cuBLAS its own workspace for each stream, else a matmul on a GPU is refused as not deterministic. It is read
    at the first matmul there, so this comes before a script that makes one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
