"""A run of one process, from the command line to the last file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from lightwatch.cli.rows import read_rows
from tests.cli.commands import Command, lightwatch, refused, start, summary_of, tiny_project, wait_until

pytestmark = pytest.mark.timeout(120)

FIELDS = """run_id status version digest steps micro_batches loss_first loss eval_loss bits_per_byte reduction tree
spheres tokens_per_s step_ms_p50 step_ms_p95 generations failures wall_s fingerprint
throughput throughput_per_sphere seconds seconds_per_sphere waited_for slowest traffic links best_loss best_loss_version
best_eval_loss best_eval_loss_version clip_ratio skipped troubles""".split()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one finished run, `out`, and what it printed."""
    folder = tmp_path_factory.mktemp("alone")
    result = lightwatch("train", "--tree", "1", "--out", "out", "--json", *tiny_project(folder), folder=folder)
    assert result.returncode == 0, result.stderr
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    return folder


def test_json_is_the_one_line_on_stdout(done: Path) -> None:
    """It is the summary; everything for people is on stderr, where no line begins with a brace."""
    lines = (done / "stdout").read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0]) == summary_of(done / "out")
    told = (done / "stderr").read_text()
    assert "step 4/4" in told and not any(line.startswith("{") for line in told.splitlines())


def test_the_summary_has_every_field_it_promises(done: Path) -> None:
    """Absent values are null; a completed run has nearly none."""
    summary = summary_of(done / "out")
    assert not set(FIELDS) - set(summary)
    assert [name for name in FIELDS if summary[name] is None] == ["slowest"]  # nobody waits for anybody
    assert (summary["status"], summary["version"], summary["steps"], summary["spheres"]) == ("completed", 4, 4, 1)
    assert (summary["micro_batches"], summary["tree"], summary["reduction"]) == (3, "1", "exact")
    assert len(summary["digest"]) == 64 and summary["failures"] == []
    assert summary["bits_per_byte"] == pytest.approx(summary["eval_loss"] / 0.6931471805599453)


def test_the_run_folder_holds_what_a_tree_would_leave(done: Path) -> None:
    """But for control's address: there is none."""
    held = {str(path.relative_to(done / "out")) for path in (done / "out").rglob("*") if path.is_file()}
    assert held == {
        "config.toml",
        "metrics.jsonl",
        "ledger.db",
        "logs/0.log",
        "model.safetensors",
        "sample.txt",
        "summary.json",
    }
    assert [row["version"] for row in read_rows(done / "out" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_written_config_gives_the_same_digest(command: Command, done: Path) -> None:
    """The complete resolved set, and nothing else, decides the bits."""
    other = done / "elsewhere"
    other.mkdir()
    result = command("train", "--config", "../out/config.toml", "--out", "again", "--quiet", folder=other)
    assert result.returncode == 0, result.stderr
    assert summary_of(other / "again")["digest"] == summary_of(done / "out")["digest"]


def test_another_seed_gives_another_digest(command: Command, done: Path) -> None:
    result = command("train", "--config", "out/config.toml", "--seed", "2", "--out", "seed2", "--quiet", folder=done)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1 and result.stdout.startswith("completed at version 4")
    assert summary_of(done / "seed2")["digest"] != summary_of(done / "out")["digest"]


def test_a_run_without_control_takes_no_orders(command: Command, done: Path) -> None:
    """It says so; its status comes from its folder."""
    refused(command("pause", "out", folder=done), "without control")
    shown = command("status", "out", folder=done)
    assert shown.returncode == 0 and "completed at version 4" in shown.stdout


def test_a_trained_model_writes(command: Command, done: Path) -> None:
    """The prompt comes first, then as many bytes as were asked for; the same seed writes the same."""
    said = command("sample", "out", "--prompt", "the fox", "--length", "40", folder=done)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("the fox") and len(said.stdout) > 20
    assert command("sample", "out", "--prompt", "the fox", "--length", "40", folder=done).stdout == said.stdout


def test_sample_of_a_folder_without_a_model_is_refused(command: Command, done: Path) -> None:
    shutil.copytree(done / "out", done / "bare", ignore=shutil.ignore_patterns("model.safetensors"))
    refused(command("sample", "bare", folder=done), "model.safetensors")
    refused(command("sample", "nowhere", folder=done), "no such folder")
    (done / "plain").mkdir()
    refused(command("sample", "plain", folder=done), "not the folder of a run")


@pytest.mark.parametrize(
    ("numbers", "status", "code"),
    [
        ([signal.SIGTERM], "stopped", 0),
        ([signal.SIGINT], "stopped", 130),
        ([signal.SIGINT, signal.SIGTERM], "failed", 130),
    ],
)
def test_a_signal_ends_the_run_in_order_and_a_second_one_at_once(
    numbers: list[signal.Signals], status: str, code: int, tmp_path: Path
) -> None:
    """Either way the summary is written, and says how."""
    flags = [*tiny_project(tmp_path), "--steps", "100000", "--tree", "1", "--out", "out"]
    process = start("train", *flags, folder=tmp_path)
    wait_until(lambda: len(read_rows(tmp_path / "out" / "metrics.jsonl")) > 3, "the first steps")
    for number in numbers:
        os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    summary = summary_of(tmp_path / "out")
    assert summary["status"] == status and summary["version"] >= 2
    assert ("second signal" in summary["reason"]) == (status == "failed")
    assert summary["codes"] == (["LW514"] if status == "failed" else [])
    assert (tmp_path / "out" / "model.safetensors").exists() == (status == "stopped")
    assert "Traceback" not in err


def test_what_a_stopped_run_says_to_type_goes_on_to_the_same_digest(tmp_path: Path) -> None:
    """As it stands in its last words; the digest is that of a run which nobody stopped."""
    flags = [*tiny_project(tmp_path), "--steps", "200", "--tree", "1"]
    process = start("train", *flags, "--out", "out", folder=tmp_path)
    wait_until(lambda: len(read_rows(tmp_path / "out" / "metrics.jsonl")) > 3, "the first steps")
    process.send_signal(signal.SIGTERM)
    said, err = process.communicate(timeout=30)
    stopped = summary_of(tmp_path / "out")
    assert stopped["status"] == "stopped", err
    typed = re.search(r"^  \S*lightwatch (train --resume out) +# go on from version (\d+)$", said, re.MULTILINE)
    assert typed and int(typed[2]) == stopped["version"], said
    went_on = lightwatch(*typed[1].split(), folder=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    whole = lightwatch("train", *flags, "--out", "whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert summary_of(tmp_path / "out")["digest"] == summary_of(tmp_path / "whole")["digest"]
    assert "train --resume" not in went_on.stdout + whole.stdout


def test_a_loss_that_is_no_number_fails_the_run_with_a_sentence(command: Command, tmp_path: Path) -> None:
    """Exit code 1, the summary says failed, the weights before are not saved as a model."""
    flags = tiny_project(tmp_path)
    with (tmp_path / "tiny.toml").open() as file:
        text = file.read()
    (tmp_path / "tiny.toml").write_text("learning_rate = 1e30\nmax_grad_norm = 0\n" + text)
    result = command("train", *flags, "--tree", "1", "--out", "out", "--json", folder=tmp_path)
    assert result.returncode == 1
    summary = json.loads(result.stdout)
    assert summary["status"] == "failed" and summary == summary_of(tmp_path / "out")
    assert "NaN" in summary["reason"] and summary["failures"] == [summary["reason"]]
    assert summary["codes"] == ["LW301"]
    assert "Traceback" not in result.stderr and f"lightwatch: {summary['reason']}" in result.stderr


SCRIPT = """
import sys, torch
from lightwatch import Trainer, TrainingConfig

class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, n):
        return torch.tensor([float(n), 1.0]) / 64, torch.tensor(n % 2)

print("arguments:", sys.argv[1:])
trainer = Trainer(torch.nn.Linear(2, 2), Points(), TrainingConfig(max_steps=3, micro_batches=2, seed=3))
print("digest:", trainer.train().step, trainer.digest())
"""


def test_a_script_of_ones_own_runs_alone(command: Command, tmp_path: Path) -> None:
    """Its prints are on stdout, its arguments are its own, its versions are recorded."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    result = command("run", "--tree", "1", "--out", "out", "mine.py", "--tree", "x", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "arguments: ['--tree', 'x']" in result.stdout
    summary = summary_of(tmp_path / "out")
    assert f"digest: 3 {summary['digest']}" in result.stdout
    assert (summary["status"], summary["version"], summary["micro_batches"]) == ("completed", 3, 2)
    assert summary["bits_per_byte"] is None


def test_with_json_a_scripts_prints_are_kept_off_stdout(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT + "print('{brace')\n")
    result = command("run", "--tree", "1", "--out", "out", "--json", "mine.py", folder=tmp_path)
    assert json.loads(result.stdout)["status"] == "completed"
    assert "digest: 3" in result.stderr and not any(line.startswith("{") for line in result.stderr.splitlines())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('mine')", "ValueError: mine (in mine.py, line 1)"),
        ("import sys; sys.exit(3)", "left with 3"),
        ("x = 1", "without training"),
    ],
)
def test_a_script_that_fails_is_named_without_a_traceback(
    command: Command, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(text + "\n")
    result = command("run", "--tree", "1", "--out", "out", "mine.py", folder=tmp_path)
    assert result.returncode == 1, result.stderr
    assert said in result.stderr and "Traceback" not in result.stderr
    assert summary_of(tmp_path / "out")["status"] == "failed"
    shown = command("run", "--tree", "1", "--out", "out2", "--debug", "mine.py", folder=tmp_path)
    assert ("Traceback" in shown.stderr) == ("raise" in text or "exit" in text)


@pytest.mark.parametrize(
    ("raised", "code", "said"), [("KeyboardInterrupt", 130, ["LW514"]), ("GeneratorExit", 1, ["LW801"])]
)
def test_a_script_that_raises_what_is_no_exception_leaves_a_summary(
    command: Command, raised: str, code: int, said: list[str], tmp_path: Path
) -> None:
    """Ctrl-C by the script's own hand is one; nothing that was kept for the end is left."""
    text = SCRIPT.replace("    def __getitem__(self, n):", f"    def __getitem__(self, n):\n        raise {raised}")
    (tmp_path / "mine.py").write_text(text)
    result = command("run", "--tree", "1", "--out", "out", "mine.py", folder=tmp_path)
    summary = summary_of(tmp_path / "out")
    assert (result.returncode, summary["status"], summary["codes"]) == (code, "failed", said)
    assert f"lightwatch: {summary['reason']}\n" in result.stderr and "Traceback" not in result.stderr
    assert not list((tmp_path / "out").glob("*.room"))
    assert summary["reason"] in command("status", "out", folder=tmp_path).stdout


def test_a_script_that_hides_our_packages_is_refused(command: Command, tmp_path: Path) -> None:
    """Also one that is no Python, or not there; nothing is made."""
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "wrong.py").write_text("def (:\n")
    refused(command("run", "wrong.py", folder=tmp_path), "not Python", "line 1")
    refused(command("run", "none.py", folder=tmp_path), "no such script")
    (tmp_path / "control.py").write_text("")
    refused(command("run", "mine.py", folder=tmp_path), "control.py", "hides")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control.py", "mine.py", "wrong.py"]
