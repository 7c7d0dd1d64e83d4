"""`python -m scripts.benchmarks.saves TURNS WRITES FOLDER`: a training that saves, and what each way costs it.

Steps take turns: one with a save of the Trainer's own (`save_interval`), one without, one with DCP's `async_save`. Each
is timed from the moment before its save to the same moment of the next step, so that what the write takes from the
training counts; what is still being written then is waited for while no clock runs. Afterwards, with no training
beside them, the ways that wait for the disk. FOLDER/saves.json holds the seconds of each.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import async_save

from lightwatch import GPT, GPTConfig, TextData, Trainer
from lightwatch.config import PRESET
from lightwatch.manifest import read_manifest
from lightwatch.metrics import TrainingState
from lightwatch.optim import AdamW

from .processes import die_with_parent

KINDS = ("save", "plain", "dcp")
"""A step's kind, by its version modulo three: a save is due where there is no remainder."""
WARM_UP_TURNS = 1  # an exact first step takes three tries, and memory settles in the first saves
FOR_EVER = 10**6
LARGE = GPTConfig(layers=6, heads=8, width=416)  # a state of 152 MB: what a save costs besides its bytes counts less


class Training(NamedTuple):
    """A training and its state as users hold it. optimizer: the Trainer's own kind, which is none of torch's."""

    trainer: Trainer
    model: nn.Module
    optimizer: Any

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class Watch:
    """Times steps by their kinds. `step_end` is the trainer's own; housekeeping in it runs while no clock does.

    copies: by kind too, seconds of one copy of the state into memory that is there.
    """

    def __init__(self, training: Training, folder: Path) -> None:
        self.steps: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.copies: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self._training = training
        self._folder = folder
        self._memory: list[Tensor] = []
        self._upload: concurrent.futures.Future[Any] | None = None
        self._kind = ""
        self._began_s = 0.0

    def step_end(self, state: TrainingState) -> None:
        """A step has ended; the save that is due now, ours after this returns, counts for the next one."""
        now_s = time.perf_counter()
        if self._kind:
            self.steps[self._kind].append(now_s - self._began_s)
        self._settle()
        self._kind = KINDS[state.step % len(KINDS)]
        self.copies[self._kind].append(self._copy())
        self._began_s = time.perf_counter()
        if self._kind == "dcp":
            self._upload = begin_dcp(self._training, self._folder / "dcp")

    def measured(self, count: int) -> dict[str, dict[str, list[float]]]:
        """The newest `count` of each kind."""
        return {
            name: {kind: seconds[-count:] for kind, seconds in kinds.items()}
            for name, kinds in {"steps": self.steps, "copies": self.copies}.items()
        }

    def _settle(self) -> None:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        if self._upload is not None:
            self._upload.result()
            shutil.rmtree(self._folder / "dcp")
            self._upload = None

    def _copy(self) -> float:
        tensors = list(tensors_in(self._training.state()))
        if len(self._memory) != len(tensors):
            self._memory = [tensor.detach().clone() for tensor in tensors]
        began_s = time.perf_counter()
        for memory, tensor in zip(self._memory, tensors, strict=True):
            memory.copy_(tensor)
        return time.perf_counter() - began_s


def training_of(size: GPTConfig, folder: Path, micro_batches: int = PRESET.training.micro_batches) -> Training:
    """The default job's training, of a model of this size; nothing is logged, evaluated or hashed between."""
    config = dataclasses.replace(
        PRESET.training,
        micro_batches=micro_batches,
        max_steps=FOR_EVER,
        log_interval=FOR_EVER,
        eval_interval=0,
        eval_batches=1,
        save_interval=len(KINDS),
        checkpoint_dir=str(folder / "ours"),
        verify_interval=0,
    )
    torch.manual_seed(config.seed)
    model = GPT(size)
    optimizer: Any = AdamW(list(model.parameters()), config.learning_rate, config.weight_decay)
    return Training(Trainer(model, TextData(""), config, optimizer=optimizer), model, optimizer)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Those of a state_dict, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


def begin_dcp(training: Training, path: Path) -> concurrent.futures.Future[Any]:
    """As its documentation has it, for a process without a group."""
    begun = async_save(training.state(), checkpoint_id=path, no_dist=True)
    assert isinstance(begun, concurrent.futures.Future), "its default stager copies before it returns"
    return begun


def take_turns(training: Training, folder: Path, count: int) -> dict[str, Any]:
    """Seconds of `count` steps of each kind, and of a copy before each. Ends the process if a save was left out."""
    watch = Watch(training, folder)
    written: list[int] = []
    training.trainer.on_step_end = watch.step_end
    training.trainer.register_callback("checkpoint", lambda saved: written.append(saved.version))
    turns = WARM_UP_TURNS + count
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # DCP's, in a thread of its own
        training.trainer.train_steps(len(KINDS) * turns + 1)  # the last one ends where no save is due
    training.trainer.on_step_end = None
    if len(written) < turns:
        raise SystemExit(f"{turns - len(written)} of {turns} saves were given up or left out")
    return watch.measured(count)


def write_by_turns(training: Training, folder: Path, count: int) -> dict[str, Any]:
    """Seconds until the state is on the disk by each way, and those of `dd` for as many bytes, each the first in turn.

    Each writes new files in an emptied folder, with nothing outstanding; the first round is left out.
    """
    size = read_manifest(training.trainer.checkpoint("kept")).bytes
    ways: dict[str, Callable[[], float]] = {
        "blocking": lambda: timed(lambda: training.trainer.checkpoint("kept")),
        "torch_save": lambda: timed(lambda: save_plainly(training, folder / "state.pt")),
        "dd": lambda: dd(folder / "zeros", size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = collections.deque(ways)
    for _ in range(1 + count):
        for name in order:
            empty(folder)
            seconds[name].append(ways[name]())
        order.rotate()
    return {"bytes": size, "seconds": {name: each[1:] for name, each in seconds.items()}}


def timed(act: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


def save_plainly(training: Training, path: Path) -> None:
    """What anyone would write, until the disk has it."""
    with path.open("wb") as file:
        torch.save(training.state(), file)
        file.flush()
        os.fsync(file.fileno())


def dd(path: Path, size: int) -> float:
    """Seconds that `dd` itself says it took for `size` bytes, on the disk."""
    words = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size}", "iflag=count_bytes", "conv=fsync"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise SystemExit(f"dd: {done.stderr.strip()}")
    return seconds_told(done.stderr)


def seconds_told(report: str) -> float:
    """The seconds in the last line that dd writes."""
    last = report.strip().splitlines()[-1]
    return float(last.split(" copied, ")[1].split(" s, ")[0])


def empty(folder: Path) -> None:
    """Remove all that is in it, and wait until the disk has nothing more to do."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.sync()


def main(turns: int, writes: int, folder: Path) -> None:
    die_with_parent()
    own = training_of(PRESET.model, folder)
    told = {**take_turns(own, folder, turns), "small": write_by_turns(own, folder / "ours", writes)}
    large = training_of(LARGE, folder, micro_batches=1)
    large.trainer.train_steps(1)  # before it the optimizer has no state
    told["large"] = write_by_turns(large, folder / "ours", writes)
    (folder / "saves.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
