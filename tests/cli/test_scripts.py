"""A user's script gives on a tree what it gives alone, however it drives its Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import lightwatch, processes_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

HEAD = """
import sys
import torch
from torch import nn
from lightwatch import Trainer, TrainingConfig

pairs = [(torch.randn(4, generator=torch.Generator().manual_seed(n)), torch.tensor(n % 3)) for n in range(20)]
torch.manual_seed(0)
config = TrainingConfig(learning_rate=1e-2, warmup_steps=0, max_steps=-1, micro_batches=3, batch_size=2, seed=2)
trainer = Trainer(nn.Linear(4, 3), pairs, config)
"""

SCRIPTS = {
    "twice": "trainer.train(1)\ntrainer.train(1)\nprint('after', trainer.version)\n",
    "steps without close": "trainer.train_steps(2)\ntrainer.train_steps(1)\nprint('after', trainer.version)\n",
    "left early": "trainer.on_step_end = lambda state: sys.exit(0) if state.step == 3 else None\ntrainer.train(2)\n",
}
VERSIONS = {"twice": 8, "steps without close": 3, "left early": 3}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_alike_alone_and_on_a_tree(name: str, tmp_path: Path) -> None:
    """Same version, same digest, exit code 0, and the model is in the run's folder."""
    (tmp_path / "script.py").write_text(HEAD + SCRIPTS[name])
    found = []
    for tree in ("1", "a:1,b:1"):
        out = f"out-{tree[0]}"
        done = lightwatch("run", "--tree", tree, "--out", out, "--json", "script.py", folder=tmp_path, timeout_s=90)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        status = "stopped" if name == "left early" else "completed"
        assert (summary["version"], summary["status"]) == (VERSIONS[name], status)
        found.append((summary["digest"], (tmp_path / out / "model.safetensors").read_bytes()))
    assert found[0] == found[1]
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("end", ["", "trainer.close()\n"])
def test_a_script_whose_spheres_make_unequal_numbers_of_steps_fails_with_one_sentence(end: str, tmp_path: Path) -> None:
    """One sphere is at its end and the other in the next step: they would wait for each other for ever."""
    steps = "trainer.train_steps(2)\n" + end + "if trainer.sync.rank == 0:\n    trainer.train_steps(1)\n"
    (tmp_path / "script.py").write_text(HEAD + steps)
    done = lightwatch("run", "--tree", "2", "--out", "out", "script.py", folder=tmp_path, timeout_s=90)
    assert done.returncode == 1
    assert "ended its training at version 2, while sphere 0 " in done.stderr and "[LW808]" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(tmp_path) == []


def test_a_second_trainer_in_one_script_is_refused_on_a_tree(tmp_path: Path) -> None:
    """One run trains one model: said in one sentence, exit code 1."""
    (tmp_path / "script.py").write_text(HEAD + "trainer.train(1)\nTrainer(nn.Linear(4, 3), pairs, config).train(1)\n")
    done = lightwatch("run", "--tree", "2", "--out", "out", "script.py", folder=tmp_path, timeout_s=90)
    assert done.returncode == 1
    assert "second Trainer" in done.stderr and "Traceback" not in done.stderr
    assert processes_of(tmp_path) == []


NAN = """
import sys
import torch
from torch import nn
from lightwatch import Trainer, TrainingConfig

pairs = [(torch.randn(4, generator=torch.Generator().manual_seed(n)), torch.tensor(n % 3)) for n in range(40)]
torch.manual_seed(0)
config = TrainingConfig(
    learning_rate=1e-2, warmup_steps=0, max_steps=5, micro_batches=4, batch_size=2, seed=2, nan_policy=sys.argv[1]
)
trainer = Trainer(nn.Linear(4, 3), pairs, config)
pairs[trainer.data.samples_of(2, 3)[1]][0][0] = float("nan")
trainer.train()
"""


def test_nan_stops_or_skips_all_spheres_alike(tmp_path: Path) -> None:
    """stop: the sentence names parameter, micro-batch, sphere and step, and the last version is whole. skip: five
    versions with the same weights on each tree, one of them skipped."""
    (tmp_path / "script.py").write_text(NAN)
    found: dict[tuple[str, str], dict[str, object]] = {}
    for policy in ("stop", "skip"):
        for tree in ("1", "a:2,b:1"):
            out = f"{policy}-{tree[0]}"
            command = ["run", "--tree", tree, "--out", out, "--json", "script.py", policy]
            done = lightwatch(*command, folder=tmp_path, timeout_s=90)
            assert done.returncode == (1 if policy == "stop" else 0), done.stderr
            found[policy, tree] = json.loads(done.stdout)
    for (policy, tree), summary in found.items():
        if policy == "skip":
            assert (summary["version"], summary["skipped"], summary["status"]) == (5, 1, "completed")
            assert "micro-batch 3 of step 3" in str(summary["troubles"])
        else:
            assert (summary["version"], summary["status"], summary["codes"]) == (2, "failed", ["LW301"])
            reason = str(summary["reason"])
            assert "the gradient of" in reason and "micro-batch 3 of step 3" in reason
            assert ("by sphere " if tree != "1" else "by this process") in reason
    assert found["skip", "1"]["digest"] == found["skip", "a:2,b:1"]["digest"]
    assert processes_of(tmp_path) == []
