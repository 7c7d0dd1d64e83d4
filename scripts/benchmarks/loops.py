"""`python -m scripts.benchmarks.loops LOOP MODEL CORE`: one training loop, step by step as it is asked for.

LOOP: trainer (float sums), exact, bare (what anyone would write), accelerate, lightning; on a GPU trainer-gpu,
exact-gpu, bf16-gpu, bare-gpu. MODEL: small, middle, large.
CORE: the number of the core to stay on, or -1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightwatch import GPT, GPTConfig, TextData, Trainer, TrainingConfig

from .turns import Turns

RATE = 1e-3
FOR_EVER = 10**9


class Task(NamedTuple):
    """What is trained: the same for all loops."""

    model: nn.Module
    data: Any
    batch_size: int
    micro_batches: int = 1


class Points:
    """A map-style dataset of random points; long, so that no epoch ends while anything is measured."""

    def __init__(self) -> None:
        numbers = torch.Generator().manual_seed(0)
        self._points = torch.randn(4096, 64, generator=numbers)
        self._classes = torch.randint(0, 10, (4096,), generator=numbers)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self._points[number % 4096], self._classes[number % 4096]


def task(name: str) -> Task:
    """small: a bare step of some 0.4 ms; middle: of some 20 ms; large: the GPT of 4.9 M parameters."""
    torch.manual_seed(1)
    if name == "small":
        return Task(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), Points(), 8)
    if name == "middle":
        return Task(GPT(GPTConfig(layers=2, heads=4, width=144)), TextData(""), 2)
    return Task(GPT(GPTConfig(layers=6, heads=8, width=256)), TextData(""), 4, micro_batches=4)


def trainer(given: Task, turns: Turns, reduction: str = "float", device: str = "cpu", autocast: str = "off") -> None:
    """Ours: nothing is logged, evaluated, hashed or saved meanwhile."""
    config = TrainingConfig(
        learning_rate=RATE,
        warmup_steps=0,
        max_steps=FOR_EVER,
        log_interval=FOR_EVER,
        eval_interval=0,
        save_interval=0,
        verify_interval=0,
        micro_batches=given.micro_batches,
        batch_size=given.batch_size,
        reduction=reduction,
        device=device,
        autocast=autocast,
    )
    own = Trainer(given.model, given.data, config)
    own.on_step_end = turns.step_end
    turns.begin()
    own.train_steps(FOR_EVER)


def exact(given: Task, turns: Turns) -> None:
    trainer(given, turns, "exact")


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def loader(given: Task) -> DataLoader[Any]:
    return DataLoader(given.data, batch_size=given.batch_size, shuffle=True)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def bare(given: Task, turns: Turns) -> None:
    """The loop that anyone would write."""
    torch.set_num_threads(1)
    model, descent = given.model, optimizer(given.model)
    turns.begin()
    while True:
        for inputs, targets in loader(given):
            loss = loss_of(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            descent.zero_grad()
            turns.step_end()


def bare_on_gpu(given: Task, turns: Turns) -> None:
    """The same loop on a GPU, with as many micro-batches: the fastest algorithms, deterministic or not."""
    model = given.model.cuda()
    descent = optimizer(model)
    turns.begin()
    while True:
        for inputs, targets in loader(given):
            for _ in range(given.micro_batches):
                loss_of(model(inputs.cuda()), targets.cuda()).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            descent.zero_grad()
            torch.cuda.synchronize()
            turns.step_end()


def accelerate(given: Task, turns: Turns) -> None:
    """The same loop as Accelerate wants it."""
    from accelerate import Accelerator  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    prepared = Accelerator(cpu=True)
    model, descent, batches = prepared.prepare(given.model, optimizer(given.model), loader(given))
    turns.begin()
    while True:
        for inputs, targets in batches:
            loss = loss_of(model(inputs), targets)
            prepared.backward(loss)
            prepared.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            descent.zero_grad()
            turns.step_end()


def lightning(given: Task, turns: Turns) -> None:
    """The same step as a LightningModule, with all that can be switched off switched off."""
    import lightning as pl  # type: ignore[import-not-found]

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = given.model

        def training_step(self, batch: list[Tensor], _number: int) -> Tensor:
            return loss_of(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer(self.model)

        def on_train_batch_end(self, *_: object) -> None:
            turns.step_end()

    torch.set_num_threads(1)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    turns.begin()
    pl.Trainer(accelerator="cpu", devices=1, max_steps=FOR_EVER, gradient_clip_val=1.0, **off).fit(
        Module(), loader(given)
    )


LOOPS: dict[str, Callable[[Task, Turns], None]] = {
    "trainer": trainer,
    "exact": exact,
    "bare": bare,
    "accelerate": accelerate,
    "lightning": lightning,
    "trainer-gpu": partial(trainer, device="cuda"),
    "exact-gpu": partial(trainer, reduction="exact", device="cuda"),
    "bf16-gpu": partial(trainer, device="cuda", autocast="bf16"),
    "bare-gpu": bare_on_gpu,
}


def main(loop: str, model: str, core: int) -> None:
    if core >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    turns = Turns()
    LOOPS[loop](task(model), turns)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
