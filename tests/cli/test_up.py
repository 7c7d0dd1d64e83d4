"""`lightwatch up` says which data its run is of, has every sphere train on those, and tells who comes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.client import ControlClient
from lightwatch.cli.arguments import parse
from lightwatch.cli.main import main
from lightwatch.cli.settings import Settings
from lightwatch.cli.up import _settled, _spoken_data
from lightwatch.config import RunConfig, load
from lightwatch.data import TextData
from tests.cli.commands import lightwatch, processes_of, start, summary_of, tiny_project, wait_until
from tests.cli.runs import digest_alone

STEPS = 6


def settled(folder: Path, *flags: str) -> Settings:
    return _settled(parse(["up", "--dir", str(folder), "--listen", "tcp://127.0.0.1:*", *flags], "0"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags of the tiny project, in a folder that is the current one; keys of joining machines stay in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    (tmp_path / "other.txt").write_text("what is trained elsewhere\n" * 400)
    return tiny_project(tmp_path)


def test_data_that_are_here_are_named_in_the_config_as_a_sphere_proves_them(project: list[str], tmp_path: Path) -> None:
    """So every machine is told which they are before anybody has come; and the person at `up` hears it."""
    settings = settled(tmp_path / "out", *project)
    proved = TextData("text.txt", 16).fingerprint
    assert settings.run.data.fingerprint == proved
    assert str(tmp_path / "text.txt") in _spoken_data(settings) and proved[:12] in _spoken_data(settings)


def test_data_that_are_elsewhere_are_not_known_and_up_says_so(project: list[str], tmp_path: Path) -> None:
    """Control trains on nothing, so it needs none; what is there and can't be trained on is refused as ever."""
    settings = settled(tmp_path / "out", *project, "--data", "elsewhere.txt")
    assert settings.text is None and settings.run.data.fingerprint == ""
    said = _spoken_data(settings)
    assert "elsewhere.txt" in said and "not known on this machine" in said and "first sphere" in said


def test_data_that_are_not_those_of_the_config_are_refused_before_anything_is_made(
    project: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `up` and `train` alike: which were expected, which are there, and what to do."""
    wanted, got = (TextData(name, 16).fingerprint for name in ("text.txt", "other.txt"))
    (tmp_path / "tiny.toml").write_text(f'{(tmp_path / "tiny.toml").read_text()}fingerprint = "{wanted}"\n')
    assert settled(tmp_path / "out", *project).run.data.fingerprint == wanted
    for command in (["up", "--dir", "new"], ["train", "--out", "new"]):
        assert main([*command, *project, "--data", "other.txt"]) == 2
        said = capsys.readouterr().err
        for word in (f"{tmp_path / 'other.txt'}", wanted[:12], got[:12], "--data PATH", "[LW106]"):
            assert word in said
        assert not (tmp_path / "new").exists()


@contextmanager
def up(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run's control in `out`, on loopback, and its join line; nothing of it is left afterwards."""
    process = start("up", "--dir", "out", "--listen", "tcp://127.0.0.1:*", *flags, folder=folder)
    try:
        yield process, heard(process, "lightwatch join '").split("'")[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        wait_until(lambda: not processes_of(folder), "the end of all processes", limit_s=5)


def heard(process: subprocess.Popen[str], words: str) -> str:
    """The next line that holds these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended, and never said {words!r}")


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_the_first_machine_with_other_data_is_refused_and_the_run_waits_for_one_that_has_the_runs(
    project: list[str], tmp_path: Path
) -> None:
    """It hears on its own terminal what differs and what to do, and so does the person at `up`, who is told who comes.
    The digest is that of one process on the run's data."""
    with up(tmp_path, *project, "--steps", str(STEPS)) as (process, line):
        join = ["join", line, "--spheres", "1"]
        wrong = lightwatch(*join, "--at", "a", "--dir", "a", "--data", "other.txt", folder=tmp_path, timeout_s=90)
        assert wrong.returncode == 2, wrong.stderr
        wanted, got = (TextData(name, 16).fingerprint[:12] for name in ("text.txt", "other.txt"))
        for said in (wrong.stderr, heard(process, "out of the run: ")):
            for word in ("sphere a/0 ", "other.txt", wanted, got, "--data PATH", "[LW106]"):
                assert word in said
        assert load(tmp_path / "a" / "config.toml", RunConfig()).data.fingerprint
        with ControlClient(tmp_path / "out") as client, start(*join, "--at", "b", folder=tmp_path) as right:
            client.pause(wait=False)  # it may train only once it has been told of
            assert heard(process, "sphere b/0 came, on ")
            client.resume(wait=False)
            _, err = right.communicate(timeout=60)
        assert right.returncode == 0, err
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    (tmp_path / "one").mkdir()
    assert summary_of(tmp_path / "out")["digest"] == digest_alone(tmp_path / "one", STEPS)
