"""`lightwatch checkpoints`, and a run that goes on with `lightwatch train --resume`."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from control.ledger import Ledger
from lightwatch.checkpoints import checkpoints_in, newest_whole
from lightwatch.cli.main import main
from lightwatch.cli.rows import bytes_up_to, read_rows
from lightwatch.config import GPTConfig
from lightwatch.flat import digest_of
from lightwatch.model import GPT
from tests.cli.commands import TINY, Command, environment, refused, start, summary_of, tiny_project, wait_until

pytestmark = pytest.mark.timeout(120)

STEPS = 400
SCRIPT = """
from pathlib import Path
from lightwatch import Trainer, TrainingConfig
from tests.models import mlp, regression_pairs
import torch
config = TrainingConfig(max_steps=6, save_interval=4, micro_batches=2, batch_size=4, eval_interval=0)
trainer = Trainer(mlp(), regression_pairs(40), config, loss_fn=torch.nn.functional.mse_loss)
if Path("first/checkpoints").exists():
    trainer.restore("first/checkpoints")
trainer.train()
"""
COMPARED = ("version", "loss", "lr", "grad_norm", "eval_loss", "epoch", "clip_ratio", "tokens", "samples")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, `whole`, with three checkpoints, and its project."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_project(folder)
    settings = f"save_interval = 20\nlog_interval = 1000\nmax_steps = {STEPS}\n"
    lines = [line for line in TINY.splitlines() if not line.startswith(("log_interval", "max_steps"))]
    (folder / "tiny.toml").write_text(settings + "\n".join(lines))
    code = main([
        "train", "--config", str(folder / "tiny.toml"), "--data", str(folder / "text.txt"), "--tree", "1",
        "--out", str(folder / "whole"), "--quiet",
    ])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def killed(project: Path) -> Path:
    """A run of the same, killed once it had saved and gone on."""
    return broken_off(project, "killed", signal.SIGKILL)


def broken_off(project: Path, name: str, number: signal.Signals) -> Path:
    flags = ["--config", "tiny.toml", "--data", "text.txt", "--tree", "1", "--out", name, "--quiet"]
    process = start("train", *flags, folder=project)
    folder = project / name
    try:
        kept = folder / "checkpoints"
        wait_until(lambda: newest_whole(kept).path and len(read_rows(folder / "metrics.jsonl")) > 25, "a checkpoint")
        process.send_signal(number)
    finally:
        if number != signal.SIGKILL:
            process.wait(30)
        process.kill()
        process.communicate()
    rows = read_rows(folder / "metrics.jsonl")
    assert 25 < len(rows) < STEPS, "it ended before it could be broken off"
    return folder


def same_rows(one: Path, other: Path) -> None:
    """No gap, no repeat, and each number that does not hang on the clock."""
    found = [
        [
            {name: row[name] for name in COMPARED}
            for row in map(json.loads, (each / "metrics.jsonl").read_bytes().splitlines())
        ]
        for each in (one, other)
    ]
    assert found[0] == found[1] and [row["version"] for row in found[0]] == list(range(1, STEPS + 1))


# ------------------------------------------------------------ going on


def test_a_killed_run_that_was_copied_ends_as_if_nothing_had_been(
    command: Command, project: Path, killed: Path
) -> None:
    """The digest, every row of metrics.jsonl, and a ledger that holds."""
    moved = project / "moved"
    shutil.copytree(killed, moved)
    with (moved / "metrics.jsonl").open("ab") as file:
        file.write(b'{"version": 77, "lo')
    result = command("train", "--resume", "moved", "--data", "text.txt", folder=project)
    assert result.returncode == 0, result.stderr
    newest = newest_whole(killed / "checkpoints").manifest
    assert newest is not None and f"goes on from version {newest.version} (step-{newest.version})" in result.stdout
    assert summary_of(moved)["digest"] == summary_of(project / "whole")["digest"]
    assert summary_of(moved)["run_id"] == newest.run
    same_rows(moved, project / "whole")
    verified = command("verify", "moved", "--sample", "5", folder=project)
    assert verified.returncode == 0 and "versions 0 to 5 made again" in verified.stdout, verified.stdout


def test_a_run_that_was_stopped_goes_on_where_it_stopped(command: Command, project: Path) -> None:
    """SIGTERM saves the version at which it stops, whatever the interval."""
    folder = broken_off(project, "stopped", signal.SIGTERM)
    stopped_at = summary_of(folder)["version"]
    newest = newest_whole(folder / "checkpoints").manifest
    assert summary_of(folder)["status"] == "stopped" and newest is not None and newest.version == stopped_at
    result = command("train", "--resume", "stopped", folder=project)
    assert result.returncode == 0 and f"goes on from version {stopped_at}" in result.stdout
    assert summary_of(folder)["digest"] == summary_of(project / "whole")["digest"]
    same_rows(folder, project / "whole")


def test_what_is_damaged_is_passed_over_and_said(command: Command, project: Path, killed: Path) -> None:
    """Down to version 0, where nothing is whole."""
    folder = project / "damaged"
    shutil.copytree(killed, folder)
    for found in checkpoints_in(folder / "checkpoints"):
        part = next(found.path.glob("*.safetensors"))
        part.write_bytes(part.read_bytes()[:-1])
    result = command("train", "--resume", "damaged", folder=project)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("passed over: ") == len(checkpoints_in(killed / "checkpoints"))
    assert "goes on from version 0: nothing was saved" in result.stdout
    assert summary_of(folder)["digest"] == summary_of(project / "whole")["digest"]
    same_rows(folder, project / "whole")


def test_a_finished_run_tells_its_summary_again(command: Command, project: Path) -> None:
    before = {path: path.read_bytes() for path in (project / "whole").rglob("*") if path.is_file()}
    result = command("train", "--resume", "whole", "--json", folder=project)
    assert result.returncode == 0 and json.loads(result.stdout) == summary_of(project / "whole")
    assert {path: path.read_bytes() for path in (project / "whole").rglob("*") if path.is_file()} == before
    shutil.copytree(project / "whole", project / "untold")
    (project / "untold" / "summary.json").unlink()
    again = json.loads(command("train", "--resume", "untold", "--json", folder=project).stdout)
    assert (again["status"], again["digest"]) == ("completed", summary_of(project / "whole")["digest"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--steps", "30", "--seed", "4"],
            ["max_steps was 400 and is given as 30", "seed was 1 and is given as 4"],
        ),
        (["--reduction", "float"], ["reduction was 'exact' and is given as 'float'"]),
        (["--device", "cuda"], ["device was 'cpu' and is given as 'cuda'"]),
        (["--config", "other.toml"], ["width was 16 and is given as 32", "batch_size was 2 and is given as 3"]),
        (["--data", "other.txt"], ["path was"]),
        (["--out", "elsewhere"], ["leave --out away"]),
    ],
)
def test_what_is_given_again_must_agree(
    flags: list[str], words: list[str], command: Command, project: Path, killed: Path
) -> None:
    """Each difference is named, the exit code is 2, and nothing in the folder has changed."""
    (project / "other.toml").write_text("batch_size = 3\n[model]\nwidth = 32\n")
    (project / "other.txt").write_text("another text\n" * 400)
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    refused(command("train", "--resume", "killed", *flags, folder=project), *words)
    after = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if "ledger" not in path.name} == {
        path: content for path, content in before.items() if "ledger" not in path.name
    }


def test_other_data_are_refused_where_they_lie(command: Command, project: Path, killed: Path) -> None:
    """The path is the same, the text is not."""
    folder = project / "other_data"
    shutil.copytree(killed, folder)
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("/text.txt", "/changed.txt"))
    (project / "changed.txt").write_text("another text\n" * 400)
    rows = (folder / "metrics.jsonl").read_bytes()
    result = command("train", "--resume", "other_data", folder=project)
    assert result.returncode == 2 and "the data's fingerprint was" in result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == rows


def test_a_run_that_still_goes_on_is_left_alone(command: Command, project: Path, killed: Path) -> None:
    folder = project / "live"
    shutil.copytree(killed, folder)
    run = newest_whole(folder / "checkpoints").manifest
    assert run is not None
    with Ledger.open(folder / "ledger.db", run.run):
        refused(command("train", "--resume", "live", folder=project), "another process is writing it")
    assert not (folder / "summary.json").exists()


def test_what_is_made_again_must_be_what_the_ledger_says(command: Command, project: Path, killed: Path) -> None:
    """A version that comes out otherwise ends the run by its number, before anything is told of it."""
    folder = project / "otherwise"
    shutil.copytree(killed, folder)
    newest = newest_whole(folder / "checkpoints").manifest
    assert newest is not None
    with sqlite3.connect(folder / "ledger.db") as ledger:
        text = ledger.execute("SELECT row FROM versions WHERE version = ?", (newest.version + 1,)).fetchone()[0]
        row = json.dumps(json.loads(text) | {"check": 1})
        ledger.execute("UPDATE versions SET row = ? WHERE version = ?", (row, newest.version + 1))
    ledger.close()
    result = command("train", "--resume", "otherwise", folder=project)
    assert result.returncode == 1 and f"version {newest.version + 1} was made again with other weights" in result.stderr
    assert "[LW533]" in result.stderr
    assert [row["version"] for row in read_rows(folder / "metrics.jsonl")] == list(range(1, newest.version + 1))


def test_a_scripts_checkpoints_lie_in_its_runs_folder(command: Command, project: Path) -> None:
    """And the next run of the script goes on from there, by `Trainer.restore`; `train --resume` says so."""
    (project / "script.py").write_text(SCRIPT)
    digests = []
    for name in ("first", "second"):
        result = command("run", "--tree", "1", "--out", name, "--quiet", "script.py", folder=project)
        assert result.returncode == 0, result.stderr
        digests.append(summary_of(project / name)["digest"])
    newest = newest_whole(project / "first" / "checkpoints").manifest
    assert newest is not None and newest.version == 4 and set(newest.config) == {"training"}
    assert newest.run == summary_of(project / "first")["run_id"]
    assert digests[0] == digests[1]
    rows = read_rows(project / "second" / "metrics.jsonl")
    assert [row["version"] for row in rows] == [5, 6]
    assert command("verify", "second", folder=project).returncode == 0
    refused(command("train", "--resume", "first", folder=project), "a script was run there", "Trainer.restore(")


def test_another_machine_is_told(command: Command, project: Path, killed: Path) -> None:
    """The run goes on all the same: whether the bits are the same nobody can know."""
    shutil.copytree(killed, project / "elsewhere")
    with sqlite3.connect(project / "elsewhere" / "ledger.db") as ledger:
        ledger.execute("UPDATE run SET value = json_set(value, '$.machine', 'abacus') WHERE key = 'fingerprint'")
    ledger.close()
    result = command("train", "--resume", "elsewhere", folder=project)
    assert result.returncode == 0 and "machine was 'abacus' when the run began and is" in result.stderr
    assert "torch was" not in result.stderr


def test_metrics_are_cut_after_the_version_that_is_restored(tmp_path: Path) -> None:
    """And before a line that is torn, or none."""
    rows = [json.dumps({"version": version}).encode() + b"\n" for version in (1, 2, 3)]
    for content, version, expected in (
        (b"".join(rows), 2, 2), (b"".join(rows), 0, 0), (b"".join(rows), 9, 3), (b"", 3, 0),
        (rows[0] + rows[1][:-1], 2, 1), (rows[0] + b"x\n" + rows[1], 2, 1), (rows[0] + b"{}\n" + rows[1], 2, 1),
    ):  # fmt: skip
        (tmp_path / "m").write_bytes(content)
        assert bytes_up_to(tmp_path / "m", version) == len(b"".join(rows[:expected]))


# ------------------------------------------------------------ the command


def test_list_shows_them_to_people_and_programs(command: Command, project: Path) -> None:
    """From the run's folder, that of its checkpoints, or a single one."""
    kept = project / "whole" / "checkpoints"
    for name, count in (("whole", 3), ("whole/checkpoints", 3), ("whole/checkpoints/step-400", 1)):
        result = command("checkpoints", "list", name, folder=project)
        assert result.returncode == 0 and len(result.stdout.splitlines()) == count, result.stderr
    assert "step-400: version 400" in result.stdout
    found: dict[str, Any] = json.loads(command("checkpoints", "list", "whole", "--json", folder=project).stdout)
    there = [each.manifest.version for each in checkpoints_in(kept) if each.manifest]
    assert [each["version"] for each in found["checkpoints"]] == there
    assert found["checkpoints"][-1]["digest"] == summary_of(project / "whole")["digest"]


def test_verify_says_which_is_damaged(command: Command, project: Path) -> None:
    shutil.copytree(project / "whole" / "checkpoints", project / "verified")
    assert command("checkpoints", "verify", "verified", folder=project).returncode == 0
    part = next((project / "verified" / "step-400").glob("*.safetensors"))
    part.write_bytes(part.read_bytes().replace(b"a", b"b", 1))
    (project / "verified" / "step-380" / "manifest.json").write_text("{}")
    result = command("checkpoints", "verify", "verified", folder=project)
    assert result.returncode == 1 and "whole: 1 of 3 checkpoints" in result.stdout
    assert f"{part.name} is not what was written" in result.stdout and "step-380: damaged" in result.stdout
    told = json.loads(command("checkpoints", "verify", "verified", "--json", folder=project).stdout)
    assert (told["whole"], told["damaged"]) == (1, 2)


def test_prune_keeps_what_it_was_told_to(command: Command, project: Path) -> None:
    shutil.copytree(project / "whole" / "checkpoints", project / "pruned")
    result = command("checkpoints", "prune", "pruned", "--keep", "1", folder=project)
    assert result.returncode == 0 and "2 of 3 checkpoints removed" in result.stdout
    assert [path.name for path in (project / "pruned").iterdir()] == ["step-400"]
    refused(command("checkpoints", "prune", "pruned", "--keep", "0", folder=project), "--keep must be at least 1")
    refused(command("checkpoints", "prune", "pruned/step-400", "--keep", "1", folder=project), "is one checkpoint")


def test_what_is_exported_is_read_by_others(command: Command, project: Path) -> None:
    """The version that was asked for, as a bare torch model and the safetensors library read it."""
    for flags, to, version in ([], "newest", STEPS), (["--step", "380"], "older", 380):
        result = command("checkpoints", "export", "whole", "--to", to, *flags, folder=project)
        assert result.returncode == 0, result.stderr
        config = json.loads((project / to / "config.json").read_text())
        model = GPT(GPTConfig(**config["model"]))
        with safe_open(project / to / "model.safetensors", framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()}, strict=True)
        assert config["version"] == version and digest_of(model) == config["digest"]
    refused(command("checkpoints", "export", "whole", "--to", "newest", folder=project), "is there already")
    refused(
        command("checkpoints", "export", "whole", "--to", "x", "--step", "7", folder=project),
        "0 checkpoints of version 7",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "nowhere"], "there is no such folder"),
        (["verify", "."], "holds no checkpoint"),
        ([], "list|verify|export|prune"),
        (["export", "whole"], "--to"),
        (["prune", "whole"], "--keep"),
    ],
)
def test_what_can_not_be_is_one_sentence(arguments: list[str], words: str, command: Command, project: Path) -> None:
    refused(command("checkpoints", *arguments, folder=project), words)


def test_listing_and_verifying_load_no_torch(project: Path) -> None:
    """They must be quick beside a run that takes every core."""
    for what in ("list", "verify"):
        code = (
            "import sys; from lightwatch.cli.main import main; "
            f"code = main(['checkpoints', '{what}', 'whole']); sys.exit(code or 3 * ('torch' in sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=project, env=environment(), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
