"""The command line: what is accepted, and one sentence with exit code 2 for the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightwatch.cli.arguments import parse
from lightwatch.cli.main import main
from lightwatch.errors import ConfigError
from tests.cli.commands import environment, lightwatch, refused


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
    ],
)
def test_what_is_no_command_line_is_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the flag and what it was given, and where to look; nothing is printed on stdout."""
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lightwatch: ") and err.count("\n") == 1
    assert said in err and "--help" in err


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("trian", "lightwatch"),
        ("--bogus", "lightwatch"),
        ("train --bogus", "lightwatch train"),
        ("train --steps x", "lightwatch train"),
        ("status a b", "lightwatch status"),
        ("explain 1 2", "lightwatch explain"),
    ],
)
def test_a_mistake_points_to_the_help_of_its_command(
    words: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert f"; see `{where} --help` [LW001]" in capsys.readouterr().err


def test_only_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's arguments are its own affair."""
    assert main(["run"]) == 2
    assert "required: SCRIPT;" in capsys.readouterr().err


def test_flags_are_kept_as_they_were_typed() -> None:
    """Trees and reductions are judged by those who own them."""
    found = parse(["train", "--tree", "2x-1", "--steps", "7", "--seed", "0", "--reduction", "fast", "--json"], "0")
    assert (found.tree, found.steps, found.seed, found.reduction, found.json) == ("2x-1", 7, 0, "fast", True)
    assert (found.config, found.data, found.out, found.listen, found.quiet) == (None, None, None, None, False)


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


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    import lightwatch as package

    assert lightwatch("--version", folder=tmp_path).stdout == f"lightwatch {package.__version__}\n"


def test_a_missing_command_leaves_with_two_as_a_process(tmp_path: Path) -> None:
    refused(lightwatch(folder=tmp_path), "a command is missing")
