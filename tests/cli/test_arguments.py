"""The command line: what is accepted, and one sentence with exit code 2 for the rest."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.errors import OrderRefused
from lightwatch.cli.arguments import parse
from lightwatch.cli.main import is_users, main
from lightwatch.errors import ConfigError
from tests.cli.commands import ROOT, environment, lightwatch, refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "a command is missing"),
        ("trian", "'trian'"),
        ("train --bogus", "--bogus"),
        ("train --step 3", "--step"),
        ("train --steps", "--steps: expected one argument"),
        ("train --steps x", "--steps: expected a whole number, got 'x'"),
        ("train --steps 1_0", "'1_0'"),
        ("train --steps ٣", "--steps"),
        ("train --seed 1.5", "--seed"),
        ("train --log-level loud", "--log-level: expected debug, info, warning, error"),
        ("train extra", "extra"),
        ("status a b", "b"),
        ("sample", "DIR"),
        ("run", "SCRIPT"),
        ("drain", "required: PATH"),
        ("terminate --json", "required: PATH"),
        ("spawn --path", "--path: expected one argument"),
        ("drain 1 out more", "unrecognized arguments: more"),
        ("drain a b --path 1", "unrecognized arguments: b"),
        ("wait --version -5", "--version: expected a whole number of at least 0, got '-5'"),
        ("wait --version 1 --timeout nan", "--timeout: expected seconds, a number of at least 0, got 'nan'"),
        ("wait --version 1 --timeout -1", "--timeout: expected seconds"),
        ("wait --version 1 --timeout soon", "got 'soon'"),
    ],
)
def test_what_is_no_command_line_is_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the flag and what it was given, and where to look; nothing is printed on stdout."""
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lightwatch: ") and err.count("\n") == 1
    assert said in err and "--help" in err


def test_an_override_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It would begin another run, for all its steps."""
    assert main(["train", "--override"]) == 2
    assert "--override is for a run that goes on: name it with --resume DIR [LW001]" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "blames_user"), [("no such sphere [LW002]", True), ("it is over [LW511]", False)])
def test_a_mistake_that_control_sees_is_the_users_too(text: str, blames_user: bool) -> None:
    """Exit code 2, as for what this machine sees."""
    assert is_users(OrderRefused(text)) == blames_user


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("trian", "lightwatch"),
        ("--bogus", "lightwatch"),
        ("train --bogus", "lightwatch train"),
        ("train --steps x", "lightwatch train"),
        ("status a b", "lightwatch status"),
        ("explain 1 2", "lightwatch explain"),
        ("drain", "lightwatch drain"),
        ("spawn a b --path 1", "lightwatch spawn"),
    ],
)
def test_a_mistake_points_to_the_help_of_its_command(
    words: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert f"; see `{where} --help` [LW001]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("trian", "train"),
        ("statsu", "stats or status"),
        ("keys lst", "list"),
        ("wait --state pausd", "paused"),
        ("checkpoints expotr out", "export"),
    ],
)
def test_a_mistyped_word_is_answered_by_what_is_near(words: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And by that alone, not by all there is."""
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert f", perhaps {near} is meant; see `lightwatch" in err and "choose from" not in err


def test_a_word_that_is_near_to_none_is_answered_by_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rate", "1e-4"]) == 2
    assert "invalid choice: 'rate' (choose from 'train', 'status'," in capsys.readouterr().err


def test_only_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's arguments are its own affair."""
    assert main(["run"]) == 2
    assert "required: SCRIPT;" in capsys.readouterr().err


def test_flags_are_kept_as_they_were_typed() -> None:
    """Trees and reductions are judged by those who own them."""
    found = parse(["train", "--tree", "2x-1", "--steps", "7", "--seed", "0", "--reduction", "fast", "--json"], "0")
    assert (found.tree, found.steps, found.seed, found.reduction, found.json) == ("2x-1", 7, 0, "fast", True)
    assert (found.config, found.data, found.out, found.listen, found.quiet) == (None, None, None, None, False)


@pytest.mark.parametrize("command", ["drain", "terminate", "spawn"])
@pytest.mark.parametrize(
    ("words", "path", "folder"),
    [
        ("eu/a/0", "eu/a/0", None),
        ("eu/a/0 out", "eu/a/0", "out"),
        ("--path eu/a/0", "eu/a/0", None),
        ("--path=eu/a/0 out", "eu/a/0", "out"),
        ("out --path eu/a/0", "eu/a/0", "out"),
        ("--path eu/a/0 --json out", "eu/a/0", "out"),
    ],
)
def test_a_path_stands_before_the_folder_or_behind_its_flag(
    command: str, words: str, path: str, folder: str | None
) -> None:
    """The same for all commands that take one; with the flag what stands alone is the folder."""
    found = parse([command, *words.split()], "0")
    assert (found.path, found.dir) == (path, folder)


def test_a_scripts_own_arguments_are_left_alone() -> None:
    """What stands behind the script is the script's, also if it looks like ours."""
    found = parse(["run", "--tree", "3", "my.py", "--tree", "9", "-x"], "0")
    assert (found.tree, found.script, found.args) == ("3", "my.py", ["--tree", "9", "-x"])


@pytest.mark.parametrize("words", [["--debug", "train"], ["train", "--debug"]])
def test_debug_stands_before_or_behind_the_command(words: list[str]) -> None:
    assert parse(words, "0").debug
    assert not parse(["train"], "0").debug


def test_a_sentence_quotes_control_characters_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    """A name with a line break can't make a second line, nor one that begins with a brace."""
    assert main(["train", "--config", "a\n{b"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_parse_raises_our_own_error() -> None:
    with pytest.raises(ConfigError, match="--steps"):
        parse(["train", "--steps", "many"], "0")


def test_help_needs_no_torch_and_less_than_a_third_of_a_second(tmp_path: Path) -> None:
    """Bar: 0.3 s on an idle machine. Here the CPU seconds are compared with an empty interpreter's, twice the best."""

    def cpu_s(code: str) -> float:
        script = f"import resource\n{code}\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
        )
        return float(done.stdout.split()[-1])

    helping = "import sys\nfrom lightwatch.cli.main import main\nassert main(['--help']) == 0\n"
    helping += "assert not {'torch', 'numpy', 'zmq', 'rich', 'tyro'} & set(sys.modules), 'too much'"
    assert min(cpu_s(helping) for _ in range(3)) - min(cpu_s("pass") for _ in range(3)) < 0.2
    began = time.monotonic()
    assert "train" in lightwatch("--help", folder=tmp_path).stdout
    assert time.monotonic() - began < 3


def test_each_command_has_a_help_text(tmp_path: Path) -> None:
    for command in ("train", "status", "pause", "resume", "stop", "sample", "run"):
        assert main([command, "--help"]) == 0


def test_the_readme_has_a_row_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that `--help` lists; but for three, which are named in the row of `status`."""
    assert main(["--help"]) == 0
    listed = set(re.findall(r"^    ([a-z]+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The commands")[2]
    rows = re.findall(r"^\| `lightwatch ([a-z\\|]+)", table, re.MULTILINE)
    assert "train" in listed and listed - set("|".join(rows).replace("\\", "").split("|")) == {
        "pause",
        "resume",
        "stop",
    }


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    import lightwatch as package

    assert lightwatch("--version", folder=tmp_path).stdout == f"lightwatch {package.__version__}\n"


def test_a_missing_command_leaves_with_two_as_a_process(tmp_path: Path) -> None:
    refused(lightwatch(folder=tmp_path), "a command is missing")
