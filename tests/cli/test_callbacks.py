"""Callbacks in real runs, alone and on a tree of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import lightwatch, processes_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SCRIPT = """
import os, pathlib, torch
from torch import nn
from lightwatch import Trainer, TrainingConfig

pairs = [(torch.randn(4, generator=torch.Generator().manual_seed(n)), torch.tensor(n % 3)) for n in range(12)]
torch.manual_seed(0)
config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=4, micro_batches=3, batch_size=2, seed=2)
trainer = Trainer(nn.Linear(4, 3), pairs, config)
story = pathlib.Path("story")
story.mkdir(exist_ok=True)


def note(name):
    def write(payload):
        with open(story / f"{trainer.sync.rank}", "a") as file:
            print(name, type(payload).__name__, file=file)
    return write


for name in "epoch_start epoch_end batch_start batch_end gradient_sync weight_update checkpoint error".split():
    trainer.register_callback(name, note(name))
"""
PAYLOADS = {
    "epoch_start": "EpochStart",
    "epoch_end": "EpochEnd",
    "batch_start": "BatchStart",
    "batch_end": "BatchEnd",
    "gradient_sync": "GradientSync",
    "weight_update": "TrainingState",
    "checkpoint": "CheckpointWritten",
    "error": "ErrorRaised",
}


def story(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Sphere -> what it was told, in order: type and payload."""
    told = {}
    for file in (folder / "story").iterdir():
        told[file.name] = [(kind, payload) for kind, payload in map(str.split, file.read_text().splitlines())]
    return told


@pytest.mark.parametrize("tree", ["1", "2"])
def test_all_eight_types_fire_in_a_real_run(tree: str, tmp_path: Path) -> None:
    """Seven on the sphere that writes the model, the eighth where a training is ended by an exception; each with the
    payload that is promised."""
    (tmp_path / "script.py").write_text(
        SCRIPT
        + """
class Enough(Exception):
    pass

def enough(state):
    if state.step == 2:
        trainer.unregister_callback(handle)
        raise Enough

handle = trainer.register_callback("weight_update", enough)
try:
    trainer.train()
except Enough:
    trainer.train()
"""
    )
    done = lightwatch("run", "--tree", tree, "--out", "out", "--json", "script.py", folder=tmp_path, timeout_s=90)
    assert done.returncode == 0, done.stderr
    told = story(tmp_path)
    assert sorted(told) == ["0", "1"][: int(tree)]
    assert dict(told["0"]) == PAYLOADS and told["0"][-1][0] == "checkpoint"
    assert all(
        dict(each) == {k: v for k, v in PAYLOADS.items() if k != "checkpoint"} for r, each in told.items() if r != "0"
    )
    updates = [kind for kind, _ in told["0"] if kind == "weight_update"]
    assert len(updates) == json.loads(done.stdout)["version"] == 4
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("tree", ["1", "2"])
@pytest.mark.parametrize("policy", ["raise", "log", "disable"])
def test_a_callback_that_raises_ends_the_run_or_does_not_as_its_policy_says(
    tree: str, policy: str, tmp_path: Path
) -> None:
    """Ended: exit code 1, the exception with its line in the sentence, the version before it in the summary. Survived:
    the digest of a run without it."""
    body = f"""
def fail(end):
    if end.step == 3:
        raise ValueError("my own mistake")

trainer.register_callback("batch_end", fail, on_error="{policy}")
trainer.train()
"""
    (tmp_path / "script.py").write_text(SCRIPT + body)
    (tmp_path / "clean.py").write_text(SCRIPT + "trainer.train()\n")
    done = lightwatch("run", "--tree", tree, "--out", "out", "--json", "script.py", folder=tmp_path, timeout_s=90)
    summary = json.loads(done.stdout)
    if policy == "raise":
        assert done.returncode == 1 and summary["status"] == "failed" and summary["version"] == 2
        assert "my own mistake" in summary["reason"] and "script.py, line" in summary["reason"]
        assert "error" in {kind for told in story(tmp_path).values() for kind, _ in told}
    else:
        clean = lightwatch("run", "--tree", "1", "--out", "c", "--json", "clean.py", folder=tmp_path, timeout_s=90)
        assert done.returncode == 0 and summary["digest"] == json.loads(clean.stdout)["digest"]
    assert processes_of(tmp_path) == []
