"""`lightwatch chaos`: the plan of faults, and what is measured of made-up records. Real runs: test_chaos_runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.tree import SphereTree
from lightwatch.cli.chaos_injector import holders_of
from lightwatch.cli.chaos_measure import Cost, Struck, Work, costs, versions_while_dead, work
from lightwatch.cli.chaos_plan import NO_FAULTS, STEPS_LEAST, Counts, Fault, make_plan, may_strike
from lightwatch.cli.chaos_processes import Process, Roster, process_of
from lightwatch.cli.chaos_records import Made, Makers, Noted, read_checks, read_made, read_noted
from lightwatch.cli.chaos_report import Outcome, as_object, first_difference, percentile, table
from lightwatch.cli.folder import RunFolder
from lightwatch.errors import ConfigError
from tests.cli.commands import lightwatch, refused

GRID = ("0/0", "0/1", "1/0", "1/1")
small = st.integers(0, 5)
counts = st.builds(Counts, small, small, small, small, small, small, small, small)

# ---------------------------------------------------------------- the plan


@given(seed=st.integers(0, 2**64), steps=st.integers(STEPS_LEAST, 500), counts=counts)
def test_a_plan_is_decided_by_its_seed_and_lies_inside_the_run(seed: int, steps: int, counts: Counts) -> None:
    """Each kind as often as asked for, in order, with versions before the first and after the last."""
    plan = make_plan(seed, GRID, steps, counts)
    assert plan == make_plan(seed, GRID, steps, counts)
    kinds = [fault.kind for fault in plan]
    for kind in ("sphere-kill", "supervisor-kill", "template-kill", "control-kill", "both-kill", "join", "blackout"):
        many = kind.replace("-kill", "_kills") if kind.endswith("kill") else f"{kind}s"
        assert kinds.count(kind) == getattr(counts, many)
    assert sum(kind.endswith("-stop") for kind in kinds) == counts.stops
    moments = [fault.version + fault.part for fault in plan]
    assert moments == sorted(moments)
    assert all(2 <= fault.version <= steps - 2 and 0 <= fault.part <= 1 for fault in plan)
    assert all((0.1 <= fault.for_s <= 10) == fault.kind.endswith("-stop") for fault in plan)
    for fault in plan:
        role = fault.kind.partition("-")[0]
        known = {
            "control": {"control"},
            "template": {"template"},
            "blackout": {"all"},
            "save": {"0/0", "0/1", "control"},
        }.get(role, set(GRID))
        assert fault.target in known or fault.kind == "join"
    SphereTree.of([*GRID, *(fault.target for fault in plan if fault.kind == "join")])


def test_seeds_make_different_plans_and_faults_often_strike_close_together() -> None:
    """Healing is to be hit while it heals: about a fifth come within a step's time of the one before."""
    plans = [make_plan(seed, GRID, 1000, Counts()) for seed in range(50)]
    assert len(set(plans)) == 50
    moments = [[fault.version + fault.part for fault in plan] for plan in plans]
    close = sum(after - before < 1 for each in moments for before, after in pairwise(each))
    assert 0.15 < close / sum(map(len, moments)) < 0.35


@pytest.mark.parametrize(
    ("paths", "steps", "word"), [(GRID, STEPS_LEAST - 1, "--steps"), (("0",), 60, "at least 2 spheres")]
)
def test_a_plan_that_has_no_room_is_refused(paths: tuple[str, ...], steps: int, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make_plan(1, paths, steps, Counts())


def test_joiners_come_beside_others_until_every_node_is_full() -> None:
    full = tuple(f"a/{number}" for number in range(12))
    (fault,) = make_plan(1, (*full, "b/0"), 60, replace(NO_FAULTS, joins=1))
    assert fault.target == "b/1"
    with pytest.raises(ConfigError, match="join fewer"):
        make_plan(1, full, 60, replace(NO_FAULTS, joins=1))


@given(holders=st.sets(st.sampled_from(GRID)), target=st.sampled_from(GRID))
def test_one_that_holds_the_state_is_always_left(holders: set[str], target: str) -> None:
    """Whatever the kind, unless it is a blackout: that takes all, and is asked for by its name."""
    for kind in ("sphere-kill", "supervisor-kill", "both-kill", "sphere-stop"):
        fault = Fault(kind, target, 5, 0.5)
        assert may_strike(fault, holders) == (holders != {target})
        assert not may_strike(fault, holders) or not holders or holders - fault.takes(holders)
    assert may_strike(Fault("blackout", "all", 5, 0.5), holders)
    assert may_strike(Fault("control-kill", "control", 5, 0.5), holders)


# ---------------------------------------------------------------- who holds what


def made(path: str, at: float, version: int, generation: int = 1, **others: Any) -> Made:
    given: dict[str, Any] = {"pid": 100 + int(path[-1]), "how": "tail", "units": 2} | others
    return Made(path=path, at=at, version=version, generation=(1, generation), **given)


def test_a_holder_lives_and_stands_at_the_newest_state_or_has_its_sums() -> None:
    """One version behind in the same generation is as good; in an older one, or dead, it is not."""
    lines = [made("0", 1.0, 7, 3), made("1", 1.0, 6, 3), made("2", 1.0, 6, 2), made("3", 1.0, 7, 3)]
    alive = {"0": 100, "1": 101, "2": 102, "3": 999}
    assert holders_of(lines, alive) == {"0", "1"}
    assert holders_of(lines, {"2": 102}) == {"2"} and holders_of(lines, {}) == set()


# ---------------------------------------------------------------- what is measured


def came(at: float, sphere: int, pid: int, path: str = "x") -> Noted:
    return Noted(at, "SphereCame", {"sphere": sphere, "hello": {"pid": pid, "path": path}})


def called(at: float, *spheres: int) -> Noted:
    return Noted(at, "GenerationProposed", {"members": [{"sphere": sphere} for sphere in spheres]})


NOTED = [came(1.0, 1, 100), came(1.0, 2, 101), called(1.5, 1, 2)]
BEFORE = [made("0", 2.0, 1), made("1", 2.1, 1)]


def test_a_kill_is_noticed_healed_and_over_when_the_records_say_so() -> None:
    """The loss that names this process; a version of a newer generation by another; one by a successor."""
    lost = [Noted(3.02, "SphereLost", {"sphere": 9}), Noted(3.05, "SphereLost", {"sphere": 2})]
    after = [
        made("0", 3.01, 2),  # all but finished when the fault struck
        made("0", 3.5, 3, 2),
        made("1", 3.9, 3, 3, pid=201, how="fetch"),
        made("1", 4.25, 4, 3, pid=201),
    ]
    struck = Struck("sphere-kill", "1", 1, 3.0, {"sphere": 101})
    (cost,) = costs([struck], [*BEFORE, *after], [*NOTED, *lost], began_at=1.0)
    assert (cost.at_s, cost.detect_ms, cost.recover_ms, cost.back_ms) == (2.0, 50.0, 500.0, 1250.0)


def test_a_loss_may_also_be_told_by_a_generation_without_it() -> None:
    """Where control died with it; a process that no control ever knew can't be missed."""
    struck = [
        Struck("both-kill", "1", 1, 3.0, {"sphere": 101, "control": 5}, back_at=3.4),
        Struck("sphere-kill", "1", 1, 4.0, {"sphere": 300}),
    ]
    found = costs(struck, BEFORE, [*NOTED, called(3.7, 1), called(4.5, 1)], began_at=3.0)
    assert [each.detect_ms for each in found] == [700.0, None]
    assert [each.recover_ms for each in found] == [None, None]


def test_a_short_stop_need_not_be_noticed_and_a_later_loss_is_not_its_own() -> None:
    """It is over with the sphere's next version, by the same process."""
    stop = Struck("sphere-stop", "1", 1, 3.0, {"sphere": 101}, until=3.3)
    later = Noted(9.0, "SphereLost", {"sphere": 2})
    (cost,) = costs([stop], [*BEFORE, made("0", 3.4, 2), made("1", 3.5, 2)], [*NOTED, later], began_at=0.0)
    assert (cost.detect_ms, cost.recover_ms, cost.back_ms, cost.for_ms) == (None, 400.0, 500.0, 300.0)


def test_a_stop_that_was_noticed_may_be_over_before_the_others_go_on_alone() -> None:
    """Then the survivors' next version is the first after it woke; else that of the generation without it."""
    stop = Struck("sphere-stop", "1", 1, 3.0, {"sphere": 101}, until=4.2)
    lost = Noted(4.1, "SphereLost", {"sphere": 2})
    almost = made("0", 3.05, 2)
    (woke,) = costs([stop], [*BEFORE, almost, made("0", 4.3, 3), made("1", 4.3, 3)], [*NOTED, lost], began_at=0.0)
    assert (woke.detect_ms, woke.recover_ms, woke.back_ms) == (1100.0, 1300.0, 1300.0)
    later = replace(stop, until=6.0)
    (alone,) = costs([later], [*BEFORE, almost, made("0", 4.4, 3, 2)], [*NOTED, lost], began_at=0.0)
    assert alone.recover_ms == 1400.0


def test_a_dead_control_stops_nobody() -> None:
    """It is noticed, and back, once the next one is bound; versions in between are counted once each."""
    struck = [Struck("control-kill", "control", 1, 3.0, {"control": 5}, back_at=3.6)]
    lines = [*BEFORE, made("0", 3.2, 2), made("1", 3.3, 2), made("0", 3.5, 3), made("1", 3.7, 3), made("0", 4.0, 4)]
    (cost,) = costs(struck, lines, NOTED, began_at=0.0)
    assert (cost.detect_ms, cost.recover_ms, cost.back_ms) == (600.0, 200.0, 600.0)
    assert versions_while_dead(struck, lines) == 2
    assert versions_while_dead([replace(struck[0], back_at=None)], lines) == 3


def test_a_join_is_noticed_when_it_comes_and_over_with_its_first_version() -> None:
    struck = Struck("join", "2", 1, 3.0, {"supervisor": 7})
    noted = [*NOTED, came(3.5, 3, 102, "2")]
    (cost,) = costs([struck], [*BEFORE, made("0", 3.2, 2), made("2", 3.9, 3)], noted, began_at=0.0)
    assert (cost.detect_ms, cost.recover_ms, cost.back_ms) == (500.0, None, 900.0)


def test_after_a_blackout_versions_are_replayed_and_count_as_redone() -> None:
    struck = Struck("blackout", "all", 2, 3.0, {"0": 100, "1": 101})
    lines = [*BEFORE, made("0", 2.5, 2), made("0", 6.0, 0, 2, pid=200, how="load"), made("0", 6.5, 1, 2, pid=200)]
    (cost,) = costs([struck], lines, NOTED, began_at=0.0)
    assert cost.back_ms == 3500.0
    assert work(lines, 4).redone_steps == 1


def test_work_counts_units_over_what_one_clean_pass_needs() -> None:
    """Repeated attempts are part of the law of a step, so they are no loss; a second generation's version is."""
    lines = [
        made("0", 1.0, 1, attempts=3, units=6),
        made("1", 1.1, 1, attempts=3, units=6),
        made("0", 2.0, 2),
        made("1", 2.1, 2),
        made("1", 3.0, 3, 2, units=5),
        made("0", 3.1, 3, 2, how="record", units=1),
    ]
    found = work(lines, micro_batches=4)
    assert found == Work(versions=3, redone_steps=0, recomputed_micro_batches=2, first_to_last_s=2.0)
    again = [*lines, made("0", 4.0, 3, 3)]
    assert work(again, 4).redone_steps == 1
    assert work(again, 4).though_held == 1
    assert work(again, 4, {101}).though_held == 0, "only the one that was hit had finished it"
    assert work([], 4) == Work(0, 0, 0, None)


def test_the_nearest_rank_is_a_value_that_was_there() -> None:
    assert [percentile([float(n) for n in range(1, 101)], each) for each in (50, 99)] == [50.0, 99.0]
    assert percentile([3.0, 1.0], 99) == 3.0 and percentile([], 50) is None


# ---------------------------------------------------------------- what is told


def outcome(**others: Any) -> Outcome:
    given: dict[str, Any] = {
        "tree": "2x2",
        "steps": 60,
        "seed": 1,
        "planned": 1,
        "hung": "",
        "failed": "",
        "clean_digest": "a" * 64,
        "chaos_digest": "a" * 64,
        "differs_at": None,
        "states_differ": False,
        "costs": (Cost("sphere-kill", "0/1", 7, 3.5, 12.0, 450.0, None),),
        "clean": Work(60, 0, 0, 20.0),
        "chaos": Work(60, 0, 3, 25.0),
        "versions_while_control_dead": 2,
    }
    return Outcome(**(given | others))


def test_the_report_holds_what_was_promised_and_reads_as_a_table() -> None:
    found = as_object(outcome())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["equal"] is True and found["hung"] is False and found["broken"] == []
    assert (found["detect_ms_p50"], found["recover_ms_p99"], found["goodput"]) == (12.0, 450.0, 0.8)
    assert found["faults"][0]["target"] == "0/1" and found["by_kind"]["sphere-kill"]["count"] == 1
    assert found["back_ms_p50"] is None
    assert outcome(chaos=Work(59, 0, 0, 5.0)).goodput is None
    text = "\n".join(table(outcome()))
    assert "sphere-kill" in text and "equal" in text and "80.0%" in text and "450" in text


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"chaos_digest": "b" * 64}, "differ"),
        ({"chaos_digest": None, "clean_digest": None}, "differ"),
        ({"differs_at": 17}, "version 17"),
        ({"states_differ": True}, "differ"),
        ({"hung": "no version came"}, "no version came"),
        ({"failed": "sphere 3 was lost"}, "sphere 3 was lost"),
        ({"planned": 3}, "2 of 3 planned faults"),
        ({"chaos": Work(60, 4, 3, 25.0, though_held=2)}, "2 finished steps were made again"),
    ],
)
def test_each_broken_promise_has_its_sentence(broken: dict[str, Any], word: str) -> None:
    (sentence,) = outcome(**broken).broken
    assert word in sentence and sentence.endswith("]")


def test_the_first_version_that_differs_is_named() -> None:
    assert first_difference({1: "a", 2: "b", 3: "c"}, {1: "a", 2: "x", 3: "y", 4: "z"}) == 2
    assert first_difference({1: "a"}, {2: "b"}) is None


# ---------------------------------------------------------------- records and processes


def test_records_are_read_beside_their_writers(tmp_path: Path) -> None:
    """By path, in the order of time; a half written line waits; what is no line is passed over."""
    line = {"at": 5.0, "pid": 7, "version": 3, "generation": [1, 2], "how": "tail", "units": 4, "attempts": 1}
    for path, at in (("eu/a/0", 6.0), ("us/0", 5.0)):
        home = tmp_path / "spheres" / path
        home.mkdir(parents=True)
        (home / "versions.jsonl").write_text(json.dumps(line | {"at": at}) + "\n{}\n" + '{"at": 7')
    found = read_made(RunFolder(tmp_path, ""))
    assert [(each.path, each.at, each.generation) for each in found] == [("us/0", 5.0, (1, 2)), ("eu/a/0", 6.0, (1, 2))]
    makers = Makers(RunFolder(tmp_path, ""))
    assert makers.version == -1 and len(makers.read(["us/0", "none"])) == 1 and makers.version == 3
    assert makers.read(["us/0"]) == []
    makers.close()


def test_the_ledger_tells_who_came_and_who_was_lost_with_their_times(tmp_path: Path) -> None:
    from control.events import SphereLost
    from control.ledger import Ledger
    from control.protocol import NO_GENERATION, Row

    path = tmp_path / "ledger.db"
    assert read_noted(path) == [] and read_checks(path) == {}
    with Ledger.open(path, "cafe") as ledger:
        ledger.record(SphereLost(sphere=4, at_s=1.0))
        ledger.record_row(Row(generation=NO_GENERATION, version=2, check=77))
        ledger.commit()
    (lost,) = read_noted(path)
    assert (lost.kind, lost.event["sphere"]) == ("SphereLost", 4) and lost.at > 1e9
    assert read_checks(path) == {2: "77"}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_reaches_only_the_process_that_was_meant(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The same id with another start time is another process."""
    meant = process_of(sleeper.pid)
    assert meant.lives and not Process(meant.pid, meant.started + 1).lives
    assert not Process(meant.pid, meant.started + 1).send(signal.SIGKILL) and sleeper.poll() is None
    home = tmp_path / "spheres" / "0"
    home.mkdir(parents=True)
    (home / "worker.pid").write_text(f"{meant.pid} {meant.started}")
    roster = Roster(RunFolder(tmp_path, ""))
    assert roster.of("sphere", "0") == meant and roster.of("supervisor", "0") is None
    (tmp_path / "control.json").write_text(json.dumps({"pid": os.getpid()}))
    assert roster.of("control", "") is None  # a process whose command line doesn't name the folder
    assert roster.left() == [meant]
    assert meant.send(signal.SIGKILL)
    sleeper.wait()
    assert roster.left() == [] and not meant.send(signal.SIGKILL) and roster.worker("0") is None


# ---------------------------------------------------------------- what can be typed


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--sphere-kills", "-1"], "--sphere-kills"),
        (["--tree", "1"], "at least 2 spheres"),
        (["--tree", "2y2"], "2y2"),
        (["--steps", "3"], "--steps"),
        (["--crash-point", "nowhere"], "nowhere"),
        (["--crash-point", "a@b@c"], "NAME@WHO"),
        (["--config", "none.toml"], "none.toml"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(flags: list[str], word: str, tmp_path: Path) -> None:
    refused(lightwatch("chaos", *flags, "--quiet", folder=tmp_path), word)
