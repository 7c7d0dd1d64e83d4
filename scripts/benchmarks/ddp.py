"""`python -m scripts.benchmarks.ddp CONFIG RANK WORLD FOLDER`: the peer, torch's own DDP as its documentation has it.

The same model, data, micro-batches, targets, clipping, optimizer and rate as the tree's. Each rank writes rows like
those of metrics.jsonl into FOLDER/rows-RANK.jsonl, the loss that of its own micro-batches. The ranks meet over a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import FileStore
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lightwatch import GPT, TextData
from lightwatch.config import PRESET, RunConfig, load
from lightwatch.data import Batches
from lightwatch.optim import warmup_cosine

from .processes import die_with_parent


class Samples:
    """The numbers of the samples of this rank's micro-batches, in order: its share of each step."""

    def __init__(self, data: TextData, run: RunConfig, rank: int, share: int) -> None:
        training = run.training
        self._batches = Batches(
            data, seed=training.seed, micro_batches=training.micro_batches, batch_size=training.batch_size
        )
        self._steps = training.max_steps
        self._own = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._steps):
            for index in self._own:
                yield self._batches.samples_of(step, index)


def train(run: RunConfig, rank: int, world: int, folder: Path) -> None:
    """All steps, each timed as it is seen from this rank."""
    share = run.training.micro_batches // world
    torch.manual_seed(run.training.seed)
    model = GPT(run.model)
    data = TextData(run.data.path, run.data.sequence_length)
    batches = iter(DataLoader(data, batch_sampler=Samples(data, run, rank, share)))
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    rate, decay = run.training.learning_rate, run.training.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    factor = warmup_cosine(run.training.warmup_steps, run.training.max_steps)
    with open(folder / f"rows-{rank}.jsonl", "w", encoding="utf-8", buffering=1) as rows:
        for version in range(1, run.training.max_steps + 1):
            began_s = time.perf_counter()
            total = torch.zeros(())
            for micro_batch in range(share):
                inputs, targets = next(batches)
                with contextlib.nullcontext() if micro_batch == share - 1 else parallel.no_sync():
                    loss = functional.cross_entropy(parallel(inputs).flatten(0, -2), targets.flatten()) / share
                    loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), run.training.max_grad_norm or float("inf"))
            optimizer.param_groups[0]["lr"] = rate * factor(version)
            optimizer.step()
            optimizer.zero_grad()
            row = {"version": version, "loss": float(total), "step_s": time.perf_counter() - began_s}
            rows.write(json.dumps(row) + "\n")


def main(config: str, rank: int, world: int, folder: Path) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    meeting = FileStore(str(folder / "meeting"), world)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world)
    train(load(Path(config), PRESET), rank, world, folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
