"""A run of a tree that ended in the middle goes on, on whatever tree, as if nothing had been."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.client import ControlClient
from control.record import read_record
from lightwatch.checkpoints import checkpoints_in, newest_whole
from lightwatch.cli.rows import read_rows
from tests.cli.commands import TINY, lightwatch, processes_of, refused, start, summary_of, tiny_project, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

STEPS, EVERY = 600, 40
COMPARED = ("version", "loss", "lr", "grad_norm", "eval_loss", "epoch", "clip_ratio", "tokens", "samples")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and a text; and `whole`, the run in one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("going_on")
    tiny_project(folder)
    settings = f"save_interval = {EVERY}\nlog_interval = 1000\nmax_steps = {STEPS}\nverify_interval = 50\n"
    lines = [line for line in TINY.splitlines() if not line.startswith(("log_interval", "max_steps"))]
    (folder / "tiny.toml").write_text(settings + "\n".join(lines))
    done = lightwatch("train", *flags("whole", "1"), folder=folder, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return folder


def flags(name: str, tree: str) -> list[str]:
    return ["--config", "tiny.toml", "--data", "text.txt", "--tree", tree, "--out", name, "--quiet"]


@contextmanager
def under_way(project: Path, name: str, tree: str, least: int) -> Iterator[int]:
    """A run of so many versions at least, one of them saved; its launcher. Afterwards all of it is killed at once."""
    folder = project / name
    process = start("train", *flags(name, tree), folder=project)
    try:
        wait_until(lambda: process.poll() is not None or newest_whole(folder / "checkpoints").path, "a checkpoint", 90)
        wait_until(lambda: process.poll() is not None or len(read_rows(folder / "metrics.jsonl")) > least, "versions")
        assert process.poll() is None, process.communicate()
        yield process.pid
    finally:
        for pid in [process.pid, *processes_of(folder)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate()
        wait_until(lambda: not processes_of(folder), "the end of all processes", 10)


@pytest.fixture(scope="module")
def killed(project: Path) -> Path:
    """A run on four spheres; control and all others were killed at once."""
    with under_way(project, "killed", "2x2", EVERY + 15):
        pass
    assert EVERY + 10 < len(read_rows(project / "killed" / "metrics.jsonl")) < STEPS
    return project / "killed"


def same_rows(one: Path, other: Path) -> None:
    """No gap, no repeat, and each number that does not hang on the clock."""
    found = [
        [{name: row[name] for name in COMPARED} for row in map(json.loads, text.splitlines())]
        for text in ((each / "metrics.jsonl").read_bytes() for each in (one, other))
    ]
    assert found[0] == found[1] and [row["version"] for row in found[0]] == list(range(1, STEPS + 1))


def is_as_whole(folder: Path, project: Path) -> None:
    """The digest, each row of metrics.jsonl, and each version in the ledger once."""
    assert summary_of(folder)["status"] == "completed"
    assert summary_of(folder)["digest"] == summary_of(project / "whole")["digest"]
    same_rows(folder, project / "whole")
    record, clean = read_record(folder / "ledger.db"), read_record(project / "whole" / "ledger.db")
    assert [(each.version, each.check) for each in record.versions] == [
        (each.version, each.check) for each in clean.versions
    ]
    assert all(each.state == "agreed" for each in record.versions)


@pytest.mark.parametrize("tree", ["1", "3", "2x2", "eu/a:2,us/b:1"])
def test_a_run_that_was_killed_and_copied_goes_on_on_any_tree(tree: str, project: Path, killed: Path) -> None:
    name = f"on {tree.replace('/', ' ')}"
    shutil.copytree(killed, project / name)
    newest = newest_whole(killed / "checkpoints").manifest
    assert newest is not None and newest.control and newest.spheres and newest.tree == "2x2"
    done = lightwatch("train", "--resume", name, "--tree", tree, folder=project, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert f"goes on from version {newest.version} (step-{newest.version})" in done.stdout
    assert all(int(step) > newest.version for step in re.findall(r"^step (\d+)/", done.stdout, re.MULTILINE))
    is_as_whole(project / name, project)
    verified = lightwatch("verify", name, "--sample", "5", folder=project)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_run_of_one_process_goes_on_on_a_tree(project: Path) -> None:
    with under_way(project, "alone", "1", EVERY + 15):
        pass
    done = lightwatch("train", "--resume", "alone", "--tree", "3", folder=project, timeout_s=120)
    assert done.returncode == 0, done.stderr
    is_as_whole(project / "alone", project)
    verified = lightwatch("verify", "alone", "--sample", "5", folder=project)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_stop_saves_and_the_run_goes_on_past_it(project: Path, killed: Path) -> None:
    """The version at which it stopped is on the disk when the run is over. Going on from an earlier one, all that was
    made is made again, and the stop that was ordered there stops nobody."""
    with under_way(project, "stopped", "2", EVERY + 5):
        stopped = lightwatch("stop", "stopped", folder=project)
        assert stopped.returncode == 0, stopped.stderr
        wait_until(lambda: (project / "stopped" / "summary.json").exists(), "the summary")
    folder = project / "stopped"
    at = summary_of(folder)["version"]
    newest = newest_whole(folder / "checkpoints")
    assert newest.manifest is not None and newest.path is not None and newest.manifest.version == at
    shutil.copytree(folder, project / "earlier")
    shutil.rmtree(project / "earlier" / "checkpoints" / newest.path.name)
    for name, tree in (("stopped", "3"), ("earlier", "2")):
        done = lightwatch("train", "--resume", name, "--tree", tree, folder=project, timeout_s=120)
        assert done.returncode == 0, done.stderr
        is_as_whole(project / name, project)


def test_without_a_checkpoint_it_begins_at_version_0_and_without_a_ledger_at_the_checkpoint(
    project: Path, killed: Path
) -> None:
    for name, gone in (("no checkpoint", "checkpoints"), ("no ledger", "ledger.db")):
        shutil.copytree(killed, project / name)
        if gone == "checkpoints":
            shutil.rmtree(project / name / gone)
        else:
            for file in (project / name).glob("ledger.db*"):
                file.unlink()
        done = lightwatch("train", "--resume", name, "--tree", "2", folder=project, timeout_s=120)
        assert done.returncode == 0, done.stderr
        assert summary_of(project / name)["digest"] == summary_of(project / "whole")["digest"]
        same_rows(project / name, project / "whole")


def test_a_damaged_checkpoint_is_passed_over_by_the_spheres_too(project: Path, killed: Path) -> None:
    """All die at once while control lives; the newest checkpoint has a flipped byte by then."""
    with under_way(project, "flipped", "2", 2 * EVERY + 5):
        folder = project / "flipped"
        newest = newest_whole(folder / "checkpoints")
        assert newest.path is not None and newest.manifest is not None
        for file in newest.manifest.files:
            whole = (newest.path / file.name).read_bytes()
            (newest.path / file.name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for path in ("0", "1"):
            pid = int((folder / "spheres" / path / "worker.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: (folder / "summary.json").exists(), "the summary", 120)
    is_as_whole(project / "flipped", project)
    logs = "".join((project / "flipped" / "logs" / f"{path}.log").read_text() for path in ("0", "1"))
    assert "take an older checkpoint" in logs


def test_all_spheres_at_once_go_on_from_the_newest_checkpoint(project: Path) -> None:
    """Nothing older is made again."""
    with under_way(project, "blackout", "2", EVERY + 5):
        folder = project / "blackout"
        for path in ("0", "1"):
            pid = int((folder / "spheres" / path / "worker.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: (folder / "summary.json").exists(), "the summary", 120)
    is_as_whole(project / "blackout", project)
    begun = [each.begun_at_version for each in read_record(project / "blackout" / "ledger.db").generations]
    assert begun[0] == 0 and 0 not in begun[1:]
    assert any(version and version % EVERY == 0 for version in begun[1:]), begun


def test_a_checkpoint_by_order_has_a_name_and_stays(project: Path) -> None:
    """Also while the run is paused; and what is no name, or stands already, is refused."""
    with under_way(project, "ordered", "2", EVERY + 5):
        saved = lightwatch("checkpoint", "ordered", "--name", "before the fix", folder=project)
        refused(saved, "letters, digits, dots, dashes")
        saved = lightwatch("checkpoint", "ordered", "--name", "best", folder=project)
        assert saved.returncode == 0 and "best" in saved.stdout, saved.stderr
        with ControlClient(project / "ordered") as client:
            at = client.pause()
            assert client.checkpoint("paused") == "paused"
            assert client.status().checkpoint == "paused" and client.status().version == at
            client.resume()
            client.stop()
        wait_until(lambda: (project / "ordered" / "summary.json").exists(), "the summary")
    kept = {each.path.name: each.manifest for each in checkpoints_in(project / "ordered" / "checkpoints")}
    assert kept["paused"] is not None and kept["paused"].version == at
    assert kept["best"] is not None and kept["best"].version < kept["paused"].version
    folders = [each.folder for each in read_record(project / "ordered" / "ledger.db").checkpoints]
    assert folders.index("best") < folders.index("paused")


def test_a_run_is_taken_back_to_a_checkpoint_while_it_goes_on(project: Path) -> None:
    """In a lineage of its own, with the same bits, for nothing else was ordered; what nobody can read is refused, and
    the run goes on as if nothing had been asked."""
    folder = project / "back"
    with under_way(project, "back", "2", EVERY + 5):
        with ControlClient(folder) as client:
            assert client.checkpoint("mark") == "mark"
            marked = client.status().checkpoint_version
            until = client.status().version + 20
            wait_until(lambda: client.status().version > until, "versions")
            client.pause()  # orders are obeyed meanwhile
            refused(lightwatch("restore", "back", "--name", "nowhere", folder=project), "'nowhere'", "[LW606]", code=1)
            assert client.restore("mark") == marked
            client.resume()
        wait_until(lambda: (folder / "summary.json").exists(), "the summary", 120)
    is_as_whole(folder, project)
    record = read_record(folder / "ledger.db")
    assert (record.lineage, record.lineage_began_at) == (1, marked)
    verified = lightwatch("verify", "back", "--sample", "5", folder=project)
    assert verified.returncode == 0, verified.stdout + verified.stderr


# ------------------------------------------------------------ going on otherwise


def test_what_is_given_again_must_agree_unless_it_is_overridden(project: Path, killed: Path) -> None:
    more = str(STEPS + 60)
    refused(
        lightwatch("train", "--resume", "killed", "--steps", more, folder=project), "max_steps was 600", "--override"
    )
    refused(
        lightwatch("train", "--resume", "killed", "--seed", "9", "--override", folder=project), "seed was", "not even"
    )


@pytest.mark.parametrize("tree", ["1", "2"])
def test_an_overridden_end_counts_from_the_checkpoint_on(tree: str, project: Path, killed: Path) -> None:
    """The schedule up to there is the old one's, and `verify` knows it; one process and a tree come to the same."""
    name, more = f"longer {tree}", str(STEPS + 60)
    shutil.copytree(killed, project / name)
    done = lightwatch(
        "train", "--resume", name, "--tree", tree, "--steps", more, "--override", folder=project, timeout_s=120
    )
    assert done.returncode == 0 and f"max_steps was {STEPS}" in done.stdout, done.stderr
    assert [row["version"] for row in read_rows(project / name / "metrics.jsonl")] == list(range(1, STEPS + 61))
    newest = newest_whole(killed / "checkpoints").manifest
    assert newest is not None
    span = f"{newest.version - 2}:{newest.version + 5}"
    verified = lightwatch("verify", name, "--steps", span, folder=project)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    other = project / f"longer {'2' if tree == '1' else '1'}"
    if (other / "summary.json").exists():
        assert summary_of(project / name)["digest"] == summary_of(other)["digest"]


def test_one_process_goes_on_with_what_a_tree_was_ordered_and_a_tree_after_it(project: Path) -> None:
    """An order that held only above the checkpoint holds, in a lineage of its own, from there on; `verify` knows it,
    whoever goes on next."""
    more, most = str(STEPS + 60), str(STEPS + 120)
    with under_way(project, "told", "2", EVERY + 5), ControlClient(project / "told") as client:
        client.pause()
        client.set_learning_rate(0.02)
    first = ("train", "--resume", "told", "--tree", "1", "--steps", more, "--override")
    then = ("train", "--resume", "told", "--tree", "3", "--steps", most, "--override")
    for command in (first, then):
        done = lightwatch(*command, folder=project, timeout_s=120)
        assert done.returncode == 0, done.stderr
        newest = newest_whole(project / "told" / "checkpoints").manifest
        assert newest is not None and newest.version > STEPS
        orders = read_record(project / "told" / "ledger.db").orders
        assert orders and all(order.version is not None and order.version <= STEPS for order in orders[:2]), orders
        verified = lightwatch("verify", "told", "--sample", "5", folder=project)
        assert verified.returncode == 0, verified.stdout + verified.stderr
