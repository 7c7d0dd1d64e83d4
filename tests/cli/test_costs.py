"""Where time and bytes went: in the summary as numbers, for people in words, and nothing where there is nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.ledger import Ledger
from control.record import read_record
from control.status import Best, Link, Progress, SphereStatus, Status, Throughput, Totals, Traffic, Waited
from lightwatch.cli.closing import tell_end
from lightwatch.cli.costs import spoken_bytes, spoken_costs, spoken_level, spoken_ms, spoken_shares, spoken_trouble
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.record import facts_from_ledger
from lightwatch.cli.settings import Settings
from lightwatch.cli.status import spoken_progress, spoken_sphere, spoken_status
from lightwatch.cli.summary import Facts, as_text, summarise
from lightwatch.cli.terminal import Terminal
from lightwatch.cli.verdict import Ended
from lightwatch.cli.view import PlainView
from lightwatch.config import PRESET

PATHS = ("a/0", "a/1", "b/0", "b/1")
MB = 1_000_000


def settings(folder: Path) -> Settings:
    return Settings(PRESET, PATHS, False, RunFolder(folder, "cafe"))


def row(version: int, **others: Any) -> dict[str, Any]:
    told = {"version": version, "loss": 3.0 - version, "tokens": 100, "samples": 10, "step_s": 0.2, "clip_ratio": 1.0}
    return told | others


def tree_totals() -> dict[str, Totals]:
    """Four spheres, 100 versions of 0.2 s; the others wait 50 ms of each for b/1."""
    level = Traffic(level=0, node="", up=995 * MB, down=995 * MB, least=1980 * MB)
    made: dict[str, Totals] = {}
    for path in PATHS:
        waits = path != "b/1"
        seconds = {"compute": 10.0, "wait": 5.0 if waits else 0.0, "reduce": 2.0, "step": 20.0}
        made[path] = Totals(
            versions=100,
            micro_batches=400,
            samples=800,
            tokens=1600,
            seconds=seconds | ({"save": 0.5} if path == "a/0" else {}),
            held_up_s=0.0 if waits else 15.0,
            traffic=[level] if path.endswith("/0") else [Traffic(level=1, up=MB)],
            round_trips={"a – b": 0.0503} if path == "a/0" else {},
        )
    return made


# ---------------------------------------------------------------- the summary


def test_a_summary_of_a_tree_has_totals_of_each_sphere_and_of_all(tmp_path: Path) -> None:
    """Seconds are those of all spheres together; the slowest is named, and how long it was waited for."""
    facts = Facts("completed", version=100, totals=tree_totals())
    found = summarise(settings(tmp_path), facts, [row(1), row(2)], 30.0)
    assert json.loads(as_text(found)) == found
    assert found["seconds"] == {"compute": 40.0, "wait": 15.0, "reduce": 8.0, "step": 80.0, "save": 0.5}
    assert found["seconds_per_sphere"]["b/1"] == {"compute": 10.0, "wait": 0.0, "reduce": 2.0, "step": 20.0}
    assert (found["waited_for"], found["slowest"]) == ({"b/1": 15.0}, "b/1")
    assert found["traffic"] == [
        {"level": 0, "up": 1990 * MB, "down": 1990 * MB, "least": 3960 * MB, "states": 0, "ratio": 1.0051},
        {"level": 1, "up": 2 * MB, "down": 0, "least": 0, "states": 0, "ratio": None},
    ]
    assert found["links"] == {"a – b": 0.0503}
    paces = {"samples_per_s": 40.0, "tokens_per_s": 80.0, "micro_batches_per_s": 20.0}
    assert found["throughput_per_sphere"] == dict.fromkeys(PATHS, paces)
    assert found["throughput"] == {
        "samples_per_s": 50.0,
        "tokens_per_s": 500.0,
        "micro_batches_per_s": 5.0 * PRESET.training.micro_batches,
        "updates_per_s": 5.0,
    }


def test_best_losses_name_their_versions_and_skips_their_reasons(tmp_path: Path) -> None:
    """The last evaluation is of the closing, which no row has."""
    rows = [
        row(1, loss=2.0, eval_loss=2.5, clip_ratio=0.5),
        row(2, loss=1.0, clip_ratio=1.0),
        row(3, loss=math.nan, skipped=True, trouble="sphere b/1: a loss of NaN", clip_ratio=None),
        row(4, loss=1.5, clip_ratio=0.25),
    ]
    found = summarise(settings(tmp_path), Facts("completed", version=4, eval_loss=2.25), rows, 1.0)
    assert (found["best_loss"], found["best_loss_version"]) == (1.0, 2)
    assert (found["best_eval_loss"], found["best_eval_loss_version"]) == (2.25, 4)
    assert found["clip_ratio"] == {"median": 0.5, "clipped": 0.6667}
    assert (found["skipped"], found["troubles"]) == (1, ["step 3 skipped: sphere b/1: a loss of NaN"])
    assert found["throughput"]["updates_per_s"] == pytest.approx(3 / 0.8)
    worse = summarise(settings(tmp_path), Facts("completed", version=4, eval_loss=2.75), rows, 1.0)
    assert (worse["best_eval_loss"], worse["best_eval_loss_version"]) == (2.5, 1)


def test_a_run_of_which_nothing_was_noted_still_has_a_summary(tmp_path: Path) -> None:
    """Control was killed before its first note: the seconds are those of the rows."""
    rows = [row(1, seconds={"compute": 0.1, "step": 0.2})]
    found = summarise(settings(tmp_path), Facts("failed", "why"), rows, 1.0)
    assert found["seconds"] == {"compute": 0.1, "step": 0.2} and found["seconds_per_sphere"] == {}
    assert (found["slowest"], found["waited_for"], found["traffic"], found["links"]) == (None, {}, [], {})
    empty = summarise(settings(tmp_path), Facts("failed", "why"), [], 1.0)
    assert empty["throughput"]["updates_per_s"] is None and empty["clip_ratio"] is None
    assert json.loads(as_text(empty)) == empty


def test_what_control_noted_reaches_the_summary_whether_or_not_the_run_failed(tmp_path: Path) -> None:
    where = settings(tmp_path)
    with Ledger.open(where.folder.ledger, "cafe") as ledger:
        ledger.note_totals({"a/0": Totals(versions=1)})
        ledger.note_totals(tree_totals())
    assert read_record(where.folder.ledger).totals == tree_totals()
    facts = facts_from_ledger(where, Ended("control was ended by SIGKILL"), ())
    assert facts.status == "failed" and facts.totals == tree_totals()


# ---------------------------------------------------------------- words


def test_the_end_says_who_was_waited_for_and_what_levels_carried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(1), row(2, skipped=True, trouble="a loss of NaN")]
    found = summarise(settings(tmp_path), Facts("completed", version=100, totals=tree_totals()), rows, 30.0)
    tell_end(Terminal(), settings(tmp_path).folder, found)
    out = capsys.readouterr().out
    assert "20 s in steps (compute 50%, wait 19%, reduce 10%)" in out
    assert "the others waited 5.0 s each for sphere b/1" in out
    assert "link a – b: round trip 50 ms" in out
    assert "level 0: 19.9 MB up and 19.9 MB down a step (1.01 times the least)" in out
    assert "1 of 100 updates skipped (step 2 skipped: a loss of NaN)" in out


def test_states_that_were_fetched_are_told_beside_what_steps_carried() -> None:
    """In all, for they come with spheres and not with steps."""
    level: dict[str, float | None] = {"level": 0, "up": 2e6, "down": 2e6, "ratio": 1.0, "states": 6e7}
    assert (
        spoken_level(level, 1)
        == "level 0: 2.0 MB up and 2.0 MB down a step (1.00 times the least), 60.0 MB of states fetched"
    )
    assert spoken_level({"level": 0, "states": 6e7}, 0) == "level 0: 60.0 MB of states fetched"
    assert spoken_level({"level": 0, "states": 0}, 9) == ""


def test_an_end_with_nothing_amiss_has_no_line_about_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = {"0": Totals(versions=2, seconds={"compute": 0.3, "step": 0.4})}
    found = summarise(settings(tmp_path), Facts("completed", version=2, totals=alone), [row(1), row(2)], 1.0)
    tell_end(Terminal(), settings(tmp_path).folder, found)
    out = capsys.readouterr().out
    assert not [word for word in ("wait", "link", "level", "skipped") if word in out]


def test_the_end_of_a_short_run_tells_tenths_and_no_wait_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = {path: Totals(versions=2, held_up_s=0.04, seconds={"step": 0.26}) for path in PATHS}
    found = summarise(settings(tmp_path), Facts("completed", version=2, totals=totals), [row(1), row(2)], 2.04)
    tell_end(Terminal(), settings(tmp_path).folder, found | {"slowest": "b/1"})
    out = capsys.readouterr().out
    assert "time: 2.0 s in all, 0.3 s in steps" in out and "waited" not in out


def status(**others: Any) -> Status:
    sphere = SphereStatus(
        sphere=1, path="b/1", pid=42, host="here", phase="computing", version=100, units_done=1, units_dealt=4,
        silent_s=0.1, throughput=Throughput(tokens_per_s=1234.0), sync_share=0.25, totals=Totals(versions=100),
    )  # fmt: skip
    fields: dict[str, Any] = {"run_id": "cafe", "state": "running", "tree": "2x2", "generation": (1, 1), "version": 100}
    return Status(spheres=[sphere], max_steps=200, **(fields | others))


def test_a_status_says_where_time_goes_and_what_slows_it_down() -> None:
    """Who is waited for, which link is slow, what the levels carried against the least."""
    found = status(
        slowest=Waited(path="b/1", wait_s=0.0482, share=0.3),
        slow_link=Link(name="a – b", round_trip_s=0.0503),
        recent=Totals(seconds={"compute": 7.1, "wait": 2.0, "reduce": 0.6, "step": 10.0, "data": 0.001}),
        totals=Totals(traffic=[Traffic(level=0, up=1990 * MB, down=1990 * MB, least=3960 * MB)]),
        updates_per_s=2.5,
        progress=Progress(best=Best(value=1.5, version=90)),
    )
    told = spoken_status(found).splitlines()
    assert "2.50 updates/s" in told[0]
    assert told[2:] == [
        "best loss 1.5000 at version 90",
        "time of the newest steps: compute 71%, wait 20%, reduce 6%",
        "others wait 48 ms a step for sphere b/1",
        "link a – b: round trip 50 ms",
        "level 0: 19.9 MB up and 19.9 MB down a step (1.01 times the least)",
        f"  {spoken_sphere(found.spheres[0])}",
    ]
    assert "1,234 tokens/s  sync 25%" in told[-1]
    assert spoken_trouble(found) == told[4:6]


def test_a_status_with_nothing_to_say_says_nothing() -> None:
    assert spoken_costs(status()) == spoken_trouble(status()) == spoken_progress(Progress()) == []


def test_skips_and_evaluations_are_told_where_there_were_any() -> None:
    progress = Progress(
        eval_loss=2.0, best_eval=Best(value=1.75, version=8), clip_ratio=0.5, skipped=2, trouble="a loss of NaN"
    )
    assert spoken_progress(progress) == [
        "eval loss 2.0000 (best 1.7500 at version 8), gradient clipped to 50%",
        "2 updates skipped, the last because a loss of NaN",
    ]


def test_a_skipped_step_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the interval: it has no loss to show, and it is news."""
    view = PlainView(Terminal(), max_steps=100, log_interval=50)
    view.rows([row(2), row(3, loss=None, skipped=True, trouble="a loss of NaN")])
    assert capsys.readouterr().out.splitlines() == ["step 3 skipped: a loss of NaN"]


def test_numbers_are_spoken_as_people_read_them() -> None:
    assert [spoken_ms(s) for s in (0.00031, 0.0503, 2.54)] == ["0.3 ms", "50 ms", "2.5 s"]
    assert [spoken_bytes(count) for count in (12, 19_900_000, 2.5e9, 5e13)] == [
        "12 B",
        "19.9 MB",
        "2.5 GB",
        "50000.0 GB",
    ]
    assert spoken_shares({}) == "" and spoken_shares({"step": 1.0, "save": 9.0, "compute": 0.5}) == "compute 50%"
    level = {"level": 1, "up": 10, "down": 0, "ratio": None}
    assert spoken_level(level, 10) == "level 1: 1 B up and 0 B down a step" and spoken_level(level, 0) == ""


def test_totals_survive_json() -> None:
    """As the ledger keeps them."""
    kept = json.loads(json.dumps(msgspec.to_builtins(tree_totals())))
    assert msgspec.convert(kept, dict[str, Totals]) == tree_totals()
