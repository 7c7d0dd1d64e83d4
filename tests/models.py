"""Small models and data for tests, each a function of a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightwatch.config import GPTConfig, TrainingConfig
from lightwatch.model import GPT
from lightwatch.sync import Sync
from lightwatch.trainer import Trainer

Pairs = list[tuple[Tensor, Tensor]]


def tiny_gpt(dropout: float = 0.0) -> GPT:
    """A GPT of about 20 K parameters."""
    torch.manual_seed(7)
    return GPT(GPTConfig(layers=2, heads=2, width=16, context=16, dropout=dropout))


def byte_pairs(count: int, length: int = 16, seed: int = 3) -> Pairs:
    """Random byte sequences with the next byte as target."""
    text = torch.randint(0, 256, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    return [(row[:-1].clone(), row[1:].clone()) for row in text]


def regression_pairs(count: int, seed: int = 5) -> Pairs:
    """(x, y) of a noisy linear map of 6 numbers to 3."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    y = x @ torch.randn(6, 3, generator=generator) + 0.1 * torch.randn(count, 3, generator=generator)
    return list(zip(x, y, strict=True))


def mlp(seed: int = 11) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 13), nn.Tanh(), nn.Linear(13, 3))


def gpt_trainer(sync: Sync, **settings: object) -> Trainer:
    """A trainer of `tiny_gpt` on 50 sequences, evaluation on 7; `settings` go over a quick config."""
    values: dict[str, object] = {
        "learning_rate": 3e-3, "warmup_steps": 2, "max_steps": 5, "micro_batches": 5, "batch_size": 2,
        "eval_interval": 2, "eval_batches": 3, "verify_interval": 1, "seed": 1,
    }  # fmt: skip
    config = TrainingConfig.from_dict({**values, **settings})
    return Trainer(tiny_gpt(), byte_pairs(50), config, eval_data=byte_pairs(7, seed=4), sync=sync)


def small_trainer(
    sync: Sync | None = None, *, data: Any = None, loss_fn: Any = None, scheduler: Any = None, **settings: object
) -> Trainer:
    """A trainer of `mlp` on 40 pairs with the squared error: 2 micro-batches of 4, 5 steps an epoch, 6 steps."""
    values: dict[str, object] = {
        "learning_rate": 1e-2, "warmup_steps": 2, "max_steps": 6, "micro_batches": 2, "batch_size": 4,
        "eval_interval": 0, "seed": 1,
    }  # fmt: skip
    config = TrainingConfig.from_dict({**values, **settings})
    return Trainer(
        mlp(), data or regression_pairs(40), config, loss_fn=loss_fn or nn.functional.mse_loss, scheduler=scheduler,
        sync=sync,
    )  # fmt: skip
