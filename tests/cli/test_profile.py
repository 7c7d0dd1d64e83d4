"""`--profile`: a file a sphere in the run's folder, and one line that says where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightwatch.cli.main import main
from lightwatch.trace import STEPS, WARM
from tests.cli.commands import lightwatch, processes_of, summary_of, tiny_project
from tests.profiles import spans_of, steps_of

pytestmark = pytest.mark.timeout(180)

SHOWN = [f"step {number}" for number in range(WARM + 1, WARM + STEPS + 1)]

# Three buckets: the last is complete only at the end of the backward, when the first has left.
SCRIPT = """
import torch
from lightwatch import Trainer, TrainingConfig

data = [(row, row.sum().sign().long().clamp(0)) for row in torch.randn(64, 1024)]
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(3)))
trainer = Trainer(model, data, TrainingConfig(max_steps=9, micro_batches=4, batch_size=2, seed=3))
trainer.train()
"""


def test_alone_the_command_writes_one_and_says_what_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*tiny_project(tmp_path), "--steps", "9", "--tree", "1"]
    assert main(["train", *flags, "--out", "out", "--profile"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("profile")]
    assert line == "profile: out/profile/0.json; open it in ui.perfetto.dev or chrome://tracing"
    assert summary_of(tmp_path / "out")["profile"] == ["profile/0.json"]
    assert [name for name, _ in steps_of(spans_of(tmp_path / "out/profile/0.json"))] == SHOWN
    assert main(["train", *flags, "--out", "without"]) == 0
    assert "profile" not in capfd.readouterr().out
    assert summary_of(tmp_path / "without")["profile"] is None and not (tmp_path / "without" / "profile").exists()


def test_a_disk_that_is_full_costs_the_profile_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line when it happens, in the log too, and one at the end."""

    def no_room(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightwatch.trace.write_whole", no_room)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *tiny_project(tmp_path), "--steps", "9", "--tree", "1", "--out", "out", "--profile"]) == 0
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert "the profile can't be written" in line and "No space left on device" in line
    assert line.partition("WARNING: ")[2] in (tmp_path / "out/logs/0.log").read_text()
    assert "0 of 1 spheres wrote a profile into out/profile; out/logs says why" in out
    assert summary_of(tmp_path / "out")["profile"] == []


@pytest.mark.cluster
def test_on_a_tree_each_sphere_of_a_script_writes_what_it_did_with_every_bucket(tmp_path: Path) -> None:
    """The first bucket leaves within the last backward of each step, and only then crosses the tree."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    words = ["run", "--tree", "2", "--out", "out", "--profile", "--json", "mine.py", "--profile"]
    result = lightwatch(*words, folder=tmp_path, timeout_s=150)
    assert result.returncode == 0, result.stderr
    assert "profile: out/profile/0.json and beside it; open it in ui.perfetto.dev" in result.stderr
    assert json.loads(result.stdout)["profile"] == ["profile/0.json", "profile/1.json"]
    for path in "01":
        spans = spans_of(tmp_path / "out" / "profile" / f"{path}.json")
        assert {span.lane for span in spans} == {"training", "all-reduce at level 0", "sum"}
        assert [name for name, _ in steps_of(spans)] == SHOWN
        for _, within in steps_of(spans):
            backward = [span for span in within if span.name == "backward"][-1]
            for number in range(3):
                (leaves,) = [span for span in within if span.name == f"bucket {number} leaves"]
                (crosses,) = [span for span in within if span.name == f"bucket {number}: all-reduce at level 0"]
                assert leaves.begin <= crosses.begin and (number or backward.holds(leaves))
            found = {span.name.partition(" (")[0] for span in within}
            assert found >= {"data", "compute", "forward", "wait for the sums", "tail", "tail: sum", "update"}
    assert processes_of(tmp_path) == []


@pytest.mark.cluster
def test_a_sphere_that_cannot_write_its_profile_trains_on(tmp_path: Path) -> None:
    """Here the file of one sphere and the folder of the other have the same name."""
    flags = [*tiny_project(tmp_path), "--steps", "9", "--tree", "a:1,a/0.json:1", "--out", "out", "--profile"]
    result = lightwatch("train", *flags, folder=tmp_path, timeout_s=150)
    assert result.returncode == 0, result.stderr
    assert "1 of 2 spheres wrote a profile into out/profile; out/logs says why" in result.stdout
    assert len(summary_of(tmp_path / "out")["profile"]) == 1
    logs = [(tmp_path / "out" / "logs" / f"{path}.log").read_text() for path in ("a/0", "a/0.json/0")]
    assert sum(log.count("the profile can't be written") for log in logs) == 1
