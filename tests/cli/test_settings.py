"""All input is judged before anything is made: the right words, exit code 2, and no folder."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightwatch.cli.arguments import parse
from lightwatch.cli.main import main
from lightwatch.cli.settings import Settings, refuse_clashing_logs, settle_train
from lightwatch.config import PRESET, RunConfig, dumps, load
from lightwatch.data import TextData
from lightwatch.errors import ConfigError
from tests.cli.commands import Command, refused, tiny_project


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a small text and config, which no refusal may change."""
    monkeypatch.chdir(tmp_path)
    tiny_project(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    yield tmp_path


def settle(*words: str) -> Settings:
    return settle_train(parse(["train", "--data", "text.txt", *words], "0"))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tree 2x-1", "2x-1"),
        ("--tree 0x2", "0x2"),
        ("--tree 2xx", "2xx"),
        ("--tree=", "''"),
        ("--tree a:2,a:1", "twice"),
        ("--tree 13", "12"),
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--steps -3", "--steps"),
        ("--seed -1", "seed"),
        ("--reduction fast", '"exact" or "float"'),
        ("--config missing.toml", "missing.toml"),
        ("--config unknown.toml", "learning_rate"),
        ("--out full", "not empty"),
        ("--out text.txt", "not a folder"),
        ("--out text.txt/below", "text.txt"),
        ("--out=", "--out"),
        ("--data missing.txt", "missing.txt"),
        ("--data=", "--data"),
        ("--data empty.txt", "no text"),
        ("--data nul.txt", "NUL"),
        ("--data short.txt", "sample"),
        ("--listen 127.0.0.1:1", "tcp://127.0.0.1"),
        ("--listen tcp://0.0.0.0:5555", "loopback"),
        ("--listen tcp://127.0.0.1:99999", "99999"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    words: str, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, stdout empty, no folder made, none changed."""
    (project / "unknown.toml").write_text("learning_rat = 1.0\n")
    (project / "empty.txt").write_text("")
    (project / "nul.txt").write_bytes(b"text\0text" * 100)
    (project / "short.txt").write_text("short")
    before = listing(project)
    assert main(["train", "--data", "text.txt", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lightwatch: ") and err.count("\n") == 1
    assert said in err
    assert listing(project) == before


def test_a_port_in_use_is_refused_before_a_folder_is_made(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(project)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["train", "--data", "text.txt", "--listen", address]) == 2
    assert "the port is in use" in capsys.readouterr().err
    assert listing(project) == before


def test_a_full_disk_is_seen_before_the_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody's input is to blame: exit code 1."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    before = listing(project)
    assert main(["train", "--data", "text.txt"]) == 1
    assert "too full: 1,000 bytes are free" in capsys.readouterr().err
    assert listing(project) == before


def test_flags_go_over_the_file_and_the_file_over_the_preset() -> None:
    """Defaults < preset < file < flags."""
    Path("some.toml").write_text("seed = 7\nmicro_batches = 5\n[control]\ntree = '3'\n")
    run = settle("--config", "some.toml", "--seed", "9").run
    assert (run.training.seed, run.training.micro_batches, run.control.tree) == (9, 5, "3")
    assert run.training.learning_rate == PRESET.training.learning_rate == 1e-3
    assert settle().run.control.tree == "2x2"


def test_the_environment_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settle().run
    for name in ("SEED", "LIGHTWATCH_SEED", "TREE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    assert settle().run == before


def test_the_resolved_set_is_written_so_that_it_gives_itself(project: Path) -> None:
    """From another folder too: the data path is absolute."""
    run = settle("--steps", "3", "--tree", "a:2,b:1").run
    (project / "written.toml").write_text(dumps(run))
    assert load(project / "written.toml", RunConfig()) == run
    assert run.data.path == str(project / "text.txt")


def test_one_is_a_run_without_control() -> None:
    """Exactly `1`; a tree with one sphere in it has a control."""
    assert settle("--tree", "1").alone and settle("--tree", "1").paths == ("0",)
    assert settle("--tree", "1", "--listen", "tcp://192.0.2.1:7070").alone, "nobody listens, so what for is no matter"
    assert not settle("--tree", "1x1").alone
    assert not settle("--tree", "a:1").alone


def test_a_tree_whose_logs_would_meet_is_refused() -> None:
    """`logs/a.log` can't be the log of sphere `a` and the folder of a sphere `a.log/0`."""
    refuse_clashing_logs(("a/0", "b.log/0"))
    for paths in (("a", "a.log/0"), ("control.log/0",)):
        with pytest.raises(ConfigError, match="log"):
            refuse_clashing_logs(paths)


def test_what_zlib_makes_of_the_held_out_bytes_is_known() -> None:
    """Bits for each byte: text is between nothing and eight."""
    text = settle("--config", "tiny.toml").text
    assert text is not None and text.zlib_bits_per_byte is not None
    assert 0.1 < text.zlib_bits_per_byte < 8
    assert "text.txt" in text.told and text.fingerprint == TextData("text.txt", 16).fingerprint


def test_up_waits_for_somebody_and_its_line_lets_in_no_fewer_than_nobody(command: Command, tmp_path: Path) -> None:
    """0 machines: no join line, a secret, is printed."""
    for flag, given in (("--wait-for", "0"), ("--wait-for", "1000000"), ("--machines", "-1")):
        refused(command("up", flag, given, folder=tmp_path), f"{flag} must be ", f", got {given} [LW002]")


def test_a_folder_that_can_not_be_is_refused_by_the_flag_that_named_it(command: Command, tmp_path: Path) -> None:
    """`up` has no --out."""
    (tmp_path / "mine").write_text("")
    for command_and_flag in (("up", "--dir"), ("train", "--out")):
        result = command(*command_and_flag, str(tmp_path), folder=tmp_path)
        refused(result, f"{command_and_flag[1]} {tmp_path}: the folder is not empty")


def test_a_machine_that_joins_looks_for_its_data_before_it_uses_the_line(command: Command, tmp_path: Path) -> None:
    """A wrong path must not cost a line that lets in one machine: here not even the line is read."""
    (tmp_path / "empty").mkdir()
    for data, why in (("nowhere.txt", "No such file"), ("empty", "holds no file"), ("*.none", "holds no file")):
        refused(command("join", "no line", "--data", data, folder=tmp_path), why)
    (tmp_path / "text.txt").write_text("text")
    refused(command("join", "no line", "--data", "text.txt", folder=tmp_path), "no join line")
