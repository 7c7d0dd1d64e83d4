"""`lightwatch chaos` for real: runs with faults, and crash points."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from control.client import ControlProcess
from control.crash import MARK, POINTS, VARIABLE
from lightwatch.cli.chaos_plan import Counts
from tests.cli.commands import lightwatch, processes_of, tiny_project

SMALL = """
micro_batches = 8
batch_size = 2
log_interval = 1000
eval_interval = 0
eval_batches = 2
[model]
layers = 1
heads = 2
width = 32
context = 32
[data]
sequence_length = 32
"""
NONE = [word for each in fields(Counts) for word in (f"--{each.name.replace('_', '-')}", "0")]


@pytest.mark.cluster
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("seed", "tree", "faults"),
    [
        (1, "2x2", {"sphere-kills": 2, "control-kills": 1}),
        (2, "a:2,b:1", {"both-kills": 1, "joins": 1}),
        (3, "3", {"supervisor-kills": 1, "template-kills": 1, "stops": 1}),
    ],
)
def test_a_run_with_faults_makes_the_bits_of_one_in_peace(
    seed: int, tree: str, faults: dict[str, int], tmp_path: Path
) -> None:
    """Every planned fault happened, no finished step was made twice, and no process of either run is left."""
    tiny_project(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    flags = [*NONE, *(word for kind, count in faults.items() for word in (f"--{kind}", str(count)))]
    flags += ["--seed", str(seed), "--tree", tree, "--steps", "100", "--config", "small.toml", "--data", "text.txt"]
    result = lightwatch("chaos", *flags, "--out", "out", "--json", "--quiet", folder=tmp_path, timeout_s=170)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["equal"] and not found["hung"] and found["broken"] == []
    assert found["clean_digest"] == found["chaos_digest"] and found["redone_steps"] == 0
    assert len(found["faults"]) == sum(faults.values()) == found["planned"]
    assert json.loads((tmp_path / "out" / "chaos.json").read_text()) == found
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"clean", "chaos"}
    assert processes_of(tmp_path) == []


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_crash_point_is_a_fault_too(tmp_path: Path) -> None:
    """Control dies with a version's facts committed and nobody told; it is the only fault."""
    tiny_project(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    flags = ["--tree", "2", "--steps", "60", "--config", "small.toml", "--data", "text.txt", "--json", "--quiet"]
    result = lightwatch(
        "chaos", *flags, "--crash-point", "control.after_commit#20", "--out", "out", folder=tmp_path, timeout_s=110
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [(fault["kind"], fault["target"]) for fault in found["faults"]] == [("crash", "control")]
    assert found["faults"][0]["detect_ms"] > 0


@pytest.mark.parametrize("point", ["control.ledger_opened", "control.bound", "control.before_commit"])
def test_a_control_that_is_killed_before_it_is_bound_is_started_anew(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had heard of it, so nothing is lost."""
    monkeypatch.setenv(VARIABLE, point)
    with ControlProcess(tmp_path, run_id="cafe") as control:
        assert control.is_bound and (tmp_path / MARK).exists()


def test_crash_points_are_listed_with_their_places(tmp_path: Path) -> None:
    listed = lightwatch("chaos", "--list-crash-points", folder=tmp_path)
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(POINTS)
