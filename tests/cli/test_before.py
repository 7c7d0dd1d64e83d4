"""From where a run would go on, by its folder alone, and the last words that offer it."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.ledger import Ledger
from lightwatch.cli.before import saved_version
from lightwatch.cli.closing import tell_end
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.settings import Settings
from lightwatch.cli.summary import Facts, summarise
from lightwatch.cli.terminal import Terminal
from lightwatch.config import PRESET, dumps
from tests.test_checkpoints import state, write


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Of a run with a ledger, of which two versions were saved."""
    found = RunFolder(tmp_path / "out", "cafe")
    found.path.mkdir()
    found.config.write_text(dumps(PRESET))
    Ledger.open(found.ledger, "cafe").close()
    for version in (3, 5):
        write(found.path / "checkpoints" / f"step-{version}", state(version), run="cafe")
    return found


def last_words(folder: RunFolder, facts: Facts, capsys: pytest.CaptureFixture[str]) -> str:
    settings = Settings(PRESET, ("0/0", "0/1", "1/0", "1/1"), False, folder)
    tell_end(Terminal(), folder, summarise(settings, facts, [], 1.0))
    return capsys.readouterr().out


def test_it_is_the_newest_of_this_runs_own(folder: RunFolder) -> None:
    """Another run's, one that was left by a restore, and one whose manifest can't be read don't count."""
    assert saved_version(folder) == 5
    write(folder.path / "checkpoints" / "step-9", state(9), run="other")
    left = state(8)
    left.facts["position"] = [7, 8, 0, 0]
    write(folder.path / "checkpoints" / "step-8", left, run="cafe")
    (folder.path / "checkpoints" / "step-5" / "manifest.json").write_text("{")
    assert saved_version(folder) == 3


def test_where_nothing_was_saved_or_known_there_is_none(folder: RunFolder, tmp_path: Path) -> None:
    """Nor where a script was run, whose model only the script can build."""
    assert saved_version(RunFolder(tmp_path, "cafe")) is None
    folder.config.write_text(dumps(PRESET, tables=("control",)))
    assert saved_version(folder) is None
    folder.config.write_text("= no TOML")
    assert saved_version(folder) is None
    folder.config.write_text(dumps(PRESET) + "\n")
    folder.ledger.unlink()
    assert saved_version(folder) is None


@pytest.mark.parametrize(
    ("facts", "purpose"),
    [
        (Facts("stopped", version=5), "# go on from version 5\n"),
        (Facts("failed", "a second signal [LW514]", version=5), "# go on from version 5, once the cause is mended\n"),
        (Facts("failed", "the loss is NaN [LW301]", version=5), ""),
        (Facts("completed", version=5), ""),
    ],
)
def test_the_last_words_say_how_to_go_on_where_that_is_of_use(
    facts: Facts, purpose: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the same config, data and seed lead to again is met again."""
    said = last_words(folder, facts, capsys)
    assert ("train --resume" in said) == bool(purpose) and purpose in said


def test_without_a_checkpoint_nothing_is_offered(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (folder.path / "checkpoints").rglob("manifest.json"):
        file.unlink()
    assert "train --resume" not in last_words(folder, Facts("stopped", version=5), capsys)
