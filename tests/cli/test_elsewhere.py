"""Control's folder of a run whose spheres are on other machines says where their files are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightwatch.cli.closing import tell_end
from lightwatch.cli.elsewhere import elsewhere
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.settings import Settings
from lightwatch.cli.summary import Facts, summarise
from lightwatch.cli.terminal import Terminal
from lightwatch.config import PRESET
from tests.cli.commands import Command, tiny_project

SPHERES = {"eu/lab-3/0": {"host": "lab-3"}, "us/box/0": {"host": "box"}}
FACTS = {"run_id": "cafe", "status": "stopped", "spheres": SPHERES}
GENERATIONS = [SimpleNamespace(members=["us/box/0"]), SimpleNamespace(members=["eu/lab-3/0", "us/box/0"])]


def folder_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, control: str, generations: list[SimpleNamespace]
) -> RunFolder:
    (path / "config.toml").write_text(f"[control]\n{control}\n")
    record = SimpleNamespace(**FACTS, generations=generations)
    monkeypatch.setattr("control.record.read_record", lambda _: record)
    return RunFolder(path, "")


def test_files_are_where_the_newest_generations_first_sphere_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By host and folder, and with the line that goes on from there."""
    folder = folder_of(tmp_path, monkeypatch, 'tree = "*:2"', GENERATIONS)
    assert elsewhere(folder) == (
        "the model and the checkpoints are on lab-3, where sphere eu/lab-3/0 was, in runs/cafe or the folder that "
        "`join --dir` named; there `lightwatch train --resume runs/cafe --tree 1` goes on from the newest one, on that "
        "machine alone"
    )


def test_checkpoints_are_where_the_config_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, monkeypatch, 'tree = "*:2"\ncheckpoint_at = "us"', GENERATIONS)
    assert elsewhere(folder).startswith("the checkpoints are on box, where sphere us/box/0 was")


@pytest.mark.parametrize(("tree", "generations"), [("2x2", GENERATIONS), ("*:2", [])])
def test_nothing_is_said_where_files_are_here_or_nobody_knows(
    tree: str, generations: list[SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert elsewhere(folder_of(tmp_path, monkeypatch, f'tree = "{tree}"', generations)) == ""


def test_a_folder_without_a_ledger_or_config_is_no_trouble(tmp_path: Path) -> None:
    assert elsewhere(RunFolder(tmp_path, "")) == ""
    (tmp_path / "config.toml").write_text('[control]\ntree = "*:2"\n')
    assert elsewhere(RunFolder(tmp_path, "")) == ""


def test_who_looks_for_them_in_controls_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightwatch.cli.main import main

    folder_of(tmp_path, monkeypatch, 'tree = "*:2"', GENERATIONS)
    for words in (["sample"], ["checkpoints", "list"], ["checkpoints", "verify"]):
        assert main([*words, str(tmp_path)]) == 2
        assert "checkpoints are on lab-3" in capsys.readouterr().err


def test_the_last_words_of_a_control_that_was_stopped_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a run is done, nobody goes on with it."""
    folder = folder_of(tmp_path, monkeypatch, 'tree = "*:2"', GENERATIONS)
    settings = Settings(PRESET, (), False, folder)
    for status in ("stopped", "completed"):
        tell_end(Terminal(), folder, summarise(settings, Facts(status, version=5), [], 1.0))
        assert ("next: the model and the checkpoints are on lab-3" in capsys.readouterr().out) == (status == "stopped")


def test_the_line_for_there_goes_on_as_it_stands(command: Command, tmp_path: Path) -> None:
    """In a folder such as `join` leaves: control's config, which listens to other machines, no ledger and no keys."""
    saving = "save_interval = 2\n"
    flags = tiny_project(tmp_path)
    (tmp_path / "tiny.toml").write_text(saving + (tmp_path / "tiny.toml").read_text())
    done = command("train", *flags, "--tree", "1", "--out", "out", "--json", folder=tmp_path)
    digest = json.loads(done.stdout)["digest"]
    config = (tmp_path / "out" / "config.toml").read_text()
    for was, told in (('tree = "1"', 'tree = "*:2"'), ('listen = "tcp://127.0.0.1:*"', 'listen = "tcp://0.0.0.0:*"')):
        assert was in config
        config = config.replace(was, told)
    (tmp_path / "out" / "config.toml").write_text(config)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-4")
    for gone in [*(tmp_path / "out").glob("ledger.db*"), tmp_path / "out" / "summary.json"]:
        gone.unlink()
    again = command("train", "--resume", "out", "--tree", "1", "--json", folder=tmp_path)
    assert again.returncode == 0 and "from version 2 (step-2)" in again.stderr, again.stderr
    assert json.loads(again.stdout)["digest"] == digest
