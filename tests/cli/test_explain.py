"""Codes where people meet them: on the terminal, in summary.json, and explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightwatch.cli.explain import PAGE, paragraph_of
from lightwatch.cli.main import main
from lightwatch.cli.processes import SAID_MOST, last_line
from lightwatch.errors import ConfigError, codes_in
from tests.cli.commands import lightwatch, refused, summary_of, tiny_project


def test_a_code_is_explained(tmp_path: Path) -> None:
    """Its title, its cause and its cure, and nothing of the next one; as it is typed or copied."""
    done = lightwatch("explain", "LW002", folder=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("LW002 ") and "Cause: " in done.stdout and "Cure: " in done.stdout
    assert "LW003" not in done.stdout
    assert lightwatch("explain", "[lw002]", folder=tmp_path).stdout == done.stdout
    assert lightwatch("explain", "002", folder=tmp_path).stdout == done.stdout


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, under their subjects; no causes, no cures."""
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  LW406 A sphere was lost" in lines and "6: disk and folders" in lines
    codes = re.findall(r"^### (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == codes
    assert not [line for line in lines if "Cause" in line or "#" in line]


def test_every_paragraph_can_be_asked_for() -> None:
    """The last of a subject does not run into the next subject."""
    page = PAGE.read_text(encoding="utf-8")
    codes = re.findall(r"^### (\S+)", page, re.MULTILINE)
    for code in codes:
        assert re.findall(r"^\S+", paragraph_of(code, page), re.MULTILINE)[0] == code
        assert "#" not in paragraph_of(code, page)
    for nonsense in ("LW000", "LW", "", "0:", "LW002 What"):
        with pytest.raises(ConfigError, match="LW001"):
            paragraph_of(nonsense, page)


def test_a_mistake_on_the_command_line_shows_its_code(tmp_path: Path) -> None:
    """With exit code 2; each kind has its own."""
    folder = str(tmp_path)
    refused(lightwatch("train", "--steps", "0", folder=tmp_path), "got 0 [LW002]")
    refused(lightwatch("train", "--tree", "2y", folder=tmp_path), "[LW401]")
    refused(lightwatch("train", "--config", "none.toml", folder=tmp_path), "[LW005]")
    refused(lightwatch("trian", folder=tmp_path), "[LW001]")
    refused(lightwatch("status", folder, folder=tmp_path), "[LW603]")
    refused(lightwatch("explain", "LW999", folder=tmp_path), "no code", "[LW001]")


def test_a_completed_run_has_no_codes(tmp_path: Path) -> None:
    done = lightwatch("train", *tiny_project(tmp_path), "--tree", "1", "--out", "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "run")["codes"] == []


@pytest.mark.parametrize("tree", ["1", pytest.param("2", marks=pytest.mark.cluster)])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise ValueError('mine')", "LW801"),
        ("x = 1", "LW803"),
        ("import lightwatch; lightwatch.TrainingConfig(seed=-1)", "LW002"),
    ],
)
def test_a_failed_run_has_its_codes_in_the_summary(tmp_path: Path, tree: str, script: str, code: str) -> None:
    """Alone and on a tree the same; the sentence on the terminal ends with it."""
    (tmp_path / "mine.py").write_text(script + "\n")
    done = lightwatch("run", "--tree", tree, "--out", "run", "mine.py", folder=tmp_path)
    summary = summary_of(tmp_path / "run")
    assert (summary["status"], summary["codes"]) == ("failed", [code]), summary
    assert summary["reason"].endswith(f" [{code}]") and codes_in(summary["reason"]) == [code]
    assert f"[{code}]" in done.stderr


def test_a_last_line_that_is_cut_keeps_its_code(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("lightwatch.errors.ConfigError: " + "long " * SAID_MOST + "[LW002]\n")
    assert last_line(log).endswith("… [LW002]") and len(last_line(log)) < SAID_MOST + 20
