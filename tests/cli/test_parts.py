"""The parts of the command: rows, summary, words for people, terminal, folder, script, processes."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from control.ledger import Ledger
from lightwatch.cli.closing import tell_end
from lightwatch.cli.folder import DiskError, RunFolder, existing_run, newest_run
from lightwatch.cli.join import refuse_kept
from lightwatch.cli.processes import environment, last_line, spoken_end, start_child
from lightwatch.cli.rows import Tail, read_rows
from lightwatch.cli.script import check_script
from lightwatch.cli.settings import Settings
from lightwatch.cli.signals import Signals
from lightwatch.cli.summary import Facts, as_text, percentile_ms, seconds_spent, summarise
from lightwatch.cli.terminal import Terminal, one_line
from lightwatch.cli.view import Pace, PlainView, spoken_row, spoken_s
from lightwatch.config import PRESET
from lightwatch.errors import ConfigError
from spheres import pids
from tests.cli.commands import wait_until


def row(version: int, **others: Any) -> dict[str, Any]:
    return {
        "version": version,
        "loss": 6.0 - version,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens": 100,
        "step_s": 0.1 * version,
        "eval_loss": None,
        "digest": None,
        "seconds": {"compute": 0.06 * version, "reduce": 0.04 * version, "step": 0.1 * version},
        **others,
    }


def settings(folder: Path) -> Settings:
    return Settings(PRESET, ("0/0", "0/1", "1/0", "1/1"), False, RunFolder(folder, "cafe"))


# ---------------------------------------------------------------- rows


def test_a_half_written_row_waits_for_its_rest(tmp_path: Path) -> None:
    """A reader beside the writer never sees a part of a line, nor a line twice."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    with path.open("ab", buffering=0) as file:
        file.write(b'{"version": 0}\n{"vers')
        assert [found["version"] for found in tail.read()] == [0]
        assert tail.read() == []
        file.write(b'ion": 1}\nno JSON\n7\n')
        assert [found["version"] for found in tail.read()] == [1]
    tail.close()


def test_rows_are_read_by_version_and_the_newest_counts(tmp_path: Path) -> None:
    """After a repetition a version may be there twice."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"version": 2, "loss": 1}\n{"version": 1}\n{"version": 2, "loss": 3}\n{"other": 1}\n')
    assert read_rows(path) == [{"version": 1}, {"version": 2, "loss": 3}]
    assert read_rows(tmp_path / "none") == []


# ---------------------------------------------------------------- summary


def test_a_summary_is_made_of_rows_and_facts(tmp_path: Path) -> None:
    """Losses from the rows, the end from the facts; bits are nats over ln 2."""
    rows = [row(0, loss=None, step_s=None, tokens=0, seconds={}), row(1), row(2), row(3)]
    facts = Facts("completed", version=3, digest="d", eval_loss=math.log(2) * 2, generations=1)
    found = summarise(settings(tmp_path), facts, rows, 12.3456)
    assert (found["loss_first"], found["loss"], found["bits_per_byte"]) == (5.0, 3.0, pytest.approx(2.0))
    assert (found["steps"], found["version"], found["spheres"], found["tree"]) == (3, 3, 4, "2x2")
    assert (found["step_ms_p50"], found["step_ms_p95"]) == (200.0, 300.0)
    assert found["tokens_per_s"] == 500.0 and found["wall_s"] == 12.346
    assert found["seconds"] == {"compute": 0.36, "reduce": 0.24, "step": 0.6}


def test_a_failed_run_has_a_summary_without_a_single_nan(tmp_path: Path) -> None:
    """What is absent, or no number, is null; JSON has no NaN."""
    bad = [row(1, loss=math.nan, step_s=None, eval_loss=math.inf)]
    found = summarise(settings(tmp_path), Facts("failed", "why", failures=("why",)), bad, 1.0)
    assert json.loads(as_text(found)) == found
    assert found["loss"] is None and found["eval_loss"] is None and found["bits_per_byte"] is None
    empty = summarise(settings(tmp_path), Facts("failed", "why"), [], 1.0)
    assert empty["version"] is None and empty["digest"] is None and empty["step_ms_p50"] is None


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile_ms([], 50) is None
    assert percentile_ms([0.002], 95) == 2.0
    steps_s = [n / 1000 for n in range(1, 101)]
    assert (percentile_ms(steps_s, 50), percentile_ms(steps_s, 95)) == (50.0, 95.0)


def test_seconds_are_added_by_name() -> None:
    assert seconds_spent([{"seconds": {"a": 1.0}}, {"seconds": {"a": 0.5, "b": 2}}, {}]) == {"a": 1.5, "b": 2}


# ---------------------------------------------------------------- words for people


def test_the_last_words_hold_quality_time_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's text is shown without what a terminal would obey."""
    folder = RunFolder(tmp_path, "cafe")
    Ledger.open(folder.ledger, "cafe").close()
    folder.sample.write_bytes(b"def \x1b[31mred\nline two\xff")
    folder.model.touch()
    found = summarise(settings(tmp_path), Facts("completed", version=2, digest="ab" * 32), [row(1), row(2)], 75.0)
    found |= {"bits_per_byte": 2.5, "zlib_bits_per_byte": 1.9, "eval_loss": 1.7}
    tell_end(Terminal(), folder, found)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "| line two" in out
    assert "2.500 bits per byte (zlib -9 needs 1.900" in out
    assert "compute 60%" in out and "1 min 15 s in all" in out
    assert "lightwatch sample" in out and "--tree 1" in out


def test_seconds_are_spoken_as_people_read_them() -> None:
    assert [spoken_s(s) for s in (0.4, 59.4, 80, 7500)] == ["0 s", "59 s", "1 min 20 s", "2 h 5 min"]


def test_pace_is_of_the_newest_steps() -> None:
    """ETA from the median step: one slow step does not move it."""
    pace = Pace(max_steps=10)
    assert pace.eta_s is None and pace.tokens_per_s is None
    for version, step_s in ((1, 0.1), (2, 50.0), (3, 0.1)):
        pace.take(row(version, step_s=step_s))
    assert pace.eta_s == pytest.approx(0.7)
    assert pace.tokens_per_s == pytest.approx(300 / 50.2)
    assert "step 3/10  loss 3.0000" in spoken_row(row(3), pace)


def test_plain_lines_come_every_log_interval_and_at_each_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView(Terminal(), max_steps=7, log_interval=3)
    view.rows([row(0, loss=None), *(row(n, eval_loss=9.0 if n == 4 else None) for n in range(1, 8))])
    *steps, last = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in steps] == ["1/7", "3/7", "4/7", "6/7", "7/7"]
    assert "evaluating" in last


# ---------------------------------------------------------------- terminal


def test_with_json_stdout_gets_the_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(json_only=True)
    terminal.say("progress")
    terminal.tell("a\n{b")
    terminal.emit({"a": 1})
    out, err = capsys.readouterr()
    assert out == '{"a": 1}\n' and err == "progress\na\n {b\n"


def test_quiet_leaves_the_result_and_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(quiet=True)
    terminal.say("progress")
    terminal.tell("result")
    terminal.complain("error")
    terminal.emit({})
    assert capsys.readouterr() == ("result\n", "lightwatch: error\n")


def test_a_sentence_is_one_line() -> None:
    assert one_line("a\nb\x1b[1m ü") == "a\\nb\\x1b[1m ü"


def test_a_reader_that_leaves_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing goes on into nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(open(writer, "wb", buffering=0), write_through=True) as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        Terminal().tell("a")
        Terminal().tell("b")


# ---------------------------------------------------------------- folder


def test_a_refused_run_unmakes_what_it_made_and_no_more(tmp_path: Path) -> None:
    """Also the folders above that were missing; a folder that was there stays."""
    deep = RunFolder.choose(str(tmp_path / "a" / "b"))
    deep.make("x = 1\n")
    assert deep.config.read_text() == "x = 1\n" and deep.logs.is_dir()
    deep.address.write_text("{}")
    deep.unmake()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    kept = RunFolder.choose(str(tmp_path / "mine"))
    kept.make("")
    kept.unmake()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and not list((tmp_path / "mine").iterdir())


def test_a_disk_that_is_full_while_the_folder_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        RunFolder.choose(str(tmp_path / "a")).make("x")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_run_is_the_one_begun_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By when it began, whatever it is called; without runs the sentence says what to give."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no run under"):
        newest_run()
    for age_s, name in ((10, "b"), (20, "z"), (30, "c")):
        config = tmp_path / "runs" / name / "config.toml"
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (1e9 - age_s, 1e9 - age_s))
    assert newest_run().path == Path("runs/b")
    with pytest.raises(ConfigError, match="not the folder of a run"):
        existing_run(str(tmp_path))


def test_the_default_folder_is_named_by_time_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = RunFolder.choose(None)
    assert chosen.path.parent == tmp_path / "runs" and chosen.path.name.endswith(f"Z-{chosen.run_id}")
    assert RunFolder.choose(None).run_id != chosen.run_id and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- scripts, processes, signals


def test_a_script_beside_our_own_packages_is_fine() -> None:
    """The repository's root holds `control` and `spheres`: those are ours."""
    root = Path(__file__).resolve().parents[2]
    example = root / "scripts" / "examples" / "own_model.py"
    assert check_script(str(example)) == str(example)


def test_threads_are_the_configs_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    found = environment(threads=2)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"], found["OMP_DYNAMIC"]) == ("2", "2", "false")


def test_ends_are_spoken() -> None:
    assert spoken_end(3) == "ended with code 3"
    assert spoken_end(-9) == "was ended by SIGKILL"


def test_the_last_line_of_a_log_is_told_without_its_time(tmp_path: Path) -> None:
    """Of a sphere that raised, the exception is wanted, not what it logged before."""
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\n2026-01-01 10:00:00,123 INFO step 3\n\n")
    assert last_line(log) == "step 3"
    assert last_line(log, records=False) == ""
    log.write_text("ValueError: mine\n")
    assert last_line(log, records=False) == "ValueError: mine"


def test_a_childs_end_takes_its_session_with_it(tmp_path: Path) -> None:
    """Whatever it has started is gone too, and its lifeline is closed."""
    child = start_child("timeit", ["-n1", "-r1", "import time; time.sleep(600)"], tmp_path / "log", threads=1)
    assert child.code() is None
    child.end()
    assert child.code() == -signal.SIGKILL
    assert child.process.stdin is not None and child.process.stdin.closed


def test_signals_are_facts_in_order() -> None:
    """They wake a wait, and what was there before is there again."""
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        assert signals.wait(0) == []
        os.kill(os.getpid(), signal.SIGTERM)
        signals.wait(5)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: len(signals.received) == 2, "the second signal")
        assert signals.received == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


def test_after_a_restore_the_tail_reads_on_where_the_file_is_another(tmp_path: Path) -> None:
    """Control puts another file there, with the same beginning: what was told is not told again, all else is."""
    path = tmp_path / "metrics.jsonl"
    old = [f'{{"version": {version}, "loss": 1.0}}\n' for version in range(1, 6)]
    path.write_text("".join(old))
    tail = Tail(path)
    assert len(tail.read()) == 5
    aside = tmp_path / "aside"
    aside.write_text("".join(old[:2]) + '{"version": 3, "loss": 2.0}\n{"version": 4, "loss"')
    aside.replace(path)
    assert [(row["version"], row["loss"]) for row in tail.read()] == [(3, 2.0)]
    with path.open("a") as file:
        file.write(": 2.0}\n")
    assert [row["version"] for row in tail.read()] == [4]
    tail.close()


def test_a_second_join_at_one_place_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """The two would end each other's spheres; a file that a dead one left says nothing."""
    file = tmp_path / "spheres" / "lab" / "0" / "supervisor.pid"
    pids.write(file, os.getpid())
    with pytest.raises(ConfigError, match=rf"lab/0 is kept alive by pid {os.getpid()}"):
        refuse_kept(tmp_path, ["lab/1", "lab/0"])
    refuse_kept(tmp_path, ["lab/1"])
    file.write_text(f"{os.getpid()} 1\n")
    refuse_kept(tmp_path, ["lab/0"])


def test_a_run_whose_control_lives_is_not_taken_up_again(tmp_path: Path) -> None:
    """Its folder stays as it is, the address too."""
    (tmp_path / "control.json").write_text("{}")
    with Ledger.open(tmp_path / "ledger.db", "r"), pytest.raises(ConfigError, match="another process is writing it"):
        RunFolder(tmp_path, "r").reopen("other")
    assert (tmp_path / "control.json").exists() and not (tmp_path / "config.toml").exists()
    RunFolder(tmp_path, "r").reopen("other")
    assert not (tmp_path / "control.json").exists()
