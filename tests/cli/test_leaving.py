"""A sphere that is asked to leave does so in good order: its work goes to the others, and nothing is computed twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from control.client import ControlClient
from control.errors import OrderRefused
from lightwatch.checkpoints import newest_whole
from lightwatch.cli.chaos_measure import work
from lightwatch.cli.chaos_records import read_made
from lightwatch.cli.folder import RunFolder
from tests.cli.commands import lightwatch, start, summary_of, wait_until
from tests.cli.runs import digest_alone, ended, pid_of, running, versions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

STEPS = 300
MICRO_BATCHES = 3
"""As in the tiny project."""
SAVING = """
import os, threading, time
from pathlib import Path
import torch
from lightwatch import Trainer, TrainingConfig
from tests.models import mlp, regression_pairs

here, fsync = Path(__file__).parent, os.fsync


def slow_disk(descriptor):
    if threading.current_thread() is not threading.main_thread() and not (here / "go on").exists():
        (here / f"held {os.getpid()}").touch()
        while not (here / "go on").exists():
            time.sleep(0.01)
    fsync(descriptor)


os.fsync = slow_disk
config = TrainingConfig(max_steps=300, save_interval=5, micro_batches=3, batch_size=2, eval_interval=0, seed=1)
torch.manual_seed(1)
trainer = Trainer(mlp(), regression_pairs(40), config, loss_fn=torch.nn.functional.mse_loss)
trainer.on_step_end = lambda state: None if (here / "hurry").exists() else time.sleep(0.02)
trainer.train()
(here / f"digest {os.getpid()}").write_text(trainer.digest())
"""
"""Its first save lies half written until there is a file named `go on`."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the same steps in one process."""
    return digest_alone(tmp_path_factory.mktemp("alone"), STEPS)


def recomputed(folder: Path) -> int:
    return work(read_made(RunFolder(folder / "out", "")), MICRO_BATCHES).recomputed_micro_batches


def has_left(folder: Path, path: str) -> bool:
    return not pid_of(folder, "worker", path) and not pid_of(folder, "supervisor", path)


def saved(folder: Path) -> int:
    """The version of the newest whole checkpoint."""
    found = newest_whole(folder / "out" / "checkpoints").manifest
    return found.version if found is not None else 0


def given_up(folder: Path) -> list[str]:
    """Of the saves that came to nothing, why."""
    uri = (folder / "out" / "ledger.db").as_uri()
    with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True)) as ledger:
        query = "SELECT json FROM events WHERE kind = 'SaveGivenUp' ORDER BY n"
        return [str(json.loads(text)["text"]) for (text,) in ledger.execute(query)]


@pytest.mark.parametrize(
    ("role", "number"), [("supervisor", signal.SIGTERM), ("worker", signal.SIGTERM), ("supervisor", signal.SIGUSR1)]
)
def test_a_signal_asks_a_sphere_to_leave(role: str, number: int, tmp_path: Path, undisturbed: str) -> None:
    """Whichever of its processes hears it: both end with code 0, nobody follows, and the bits are the same."""
    with running(tmp_path, "--log-level", "info", steps=STEPS, tree="3") as process:
        supervisor = pid_of(tmp_path, "supervisor")
        os.kill(pid_of(tmp_path, role), number)
        wait_until(lambda: has_left(tmp_path, "1"), "the end of sphere 1", limit_s=20)
        assert versions(tmp_path) < STEPS and process.poll() is None, "the others go on"
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], summary["digest"]) == (0, "completed", undisturbed), said
    assert f"the supervisor of sphere 1 (pid {supervisor}) ended with code 0" in said
    assert recomputed(tmp_path) == 0 and summary["restarts"] == {}
    ids = {made.path: made.pid for made in read_made(RunFolder(tmp_path / "out", ""))}
    assert len(ids) == 3, "all three computed"


def test_a_command_has_a_sphere_leave_and_waits_until_it_may(tmp_path: Path, undisturbed: str) -> None:
    """Then a client has another one leave; who is the last one goes on alone, to the same bits."""
    with running(tmp_path, steps=STEPS, tree="3") as process:
        done = lightwatch("drain", "1", "out", folder=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith("1 has left at version "), done
        wait_until(lambda: has_left(tmp_path, "1"), "the end of sphere 1", limit_s=20)
        with ControlClient(tmp_path / "out") as client:
            assert [each.state for each in client.health().spheres if each.path == "1"] == ["left"]
            with pytest.raises(OrderRefused, match="no sphere is at '1'"):
                client.drain("1")
            version = client.drain("2")
            assert version is not None and version < STEPS
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], summary["digest"]) == (0, "completed", undisturbed), said
    assert recomputed(tmp_path) == 0


def test_a_sphere_comes_again_where_one_has_left_as_a_spawn_says(tmp_path: Path) -> None:
    """Nobody was terminated there, so a spawn alone orders nothing; what it says to type first has one started."""
    with running(tmp_path, tree="3") as process:
        assert lightwatch("drain", "1", "out", folder=tmp_path).returncode == 0
        wait_until(lambda: has_left(tmp_path, "1"), "the end of sphere 1", limit_s=20)
        alone = lightwatch("spawn", "1", "out", folder=tmp_path)
        assert alone.stdout == (
            "nothing was ordered, for none was terminated at 1: it was asked to leave; `lightwatch terminate 1`, and "
            "then spawn, have the run's launcher start one\n"
        )
        assert lightwatch("terminate", "1", "out", folder=tmp_path).returncode == 0
        again = lightwatch("spawn", "1", "out", folder=tmp_path)
        assert "a sphere is let in again at 1 from version" in again.stdout
        with ControlClient(tmp_path / "out") as client:
            wait_until(lambda: client.health().count("left") + client.health().count("lost") == 0, "sphere 1", 60)
            there = lightwatch("spawn", "1", "out", folder=tmp_path)
            assert there.stdout == "nothing was ordered: a sphere is at 1 already\n"
            client.stop()
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped"), said


def test_the_last_ones_leave_a_checkpoint_from_which_the_run_goes_on(tmp_path: Path, undisturbed: str) -> None:
    """Both are asked; the launcher says what has come of it, and a resumed run ends in the same bits."""
    with running(tmp_path, steps=STEPS) as process:
        for path in ("0", "1"):
            os.kill(pid_of(tmp_path, "supervisor", path), signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "all spheres have left, as they were asked to" in err and "[LW415]" in err
    (saved,) = (tmp_path / "out").glob("checkpoints/step-*")
    assert (saved / "manifest.json").exists()
    done = lightwatch("train", "--resume", "out", folder=tmp_path, timeout_s=120)
    assert done.returncode == 0 and summary_of(tmp_path / "out")["digest"] == undisturbed, done


@pytest.mark.parametrize("leaver", ["0", "1"])
def test_a_save_whose_writer_leaves_is_given_up_and_made_by_the_others(leaver: str, tmp_path: Path) -> None:
    """Whether it is the one that would seal it or not: nobody waits for it, and what lies in the folder is whole."""
    (tmp_path / "script.py").write_text(SAVING)
    process = start("run", "--tree", "2", "--out", "out", "script.py", folder=tmp_path)
    try:
        wait_until(lambda: len(list(tmp_path.glob("held *"))) == 2, "a save in flight", limit_s=60)
        done = lightwatch("drain", leaver, "out", folder=tmp_path)
        assert done.stdout.startswith(f"{leaver} has left at version "), done
        (tmp_path / "go on").touch()
        wait_until(lambda: has_left(tmp_path, leaver), "its end", limit_s=20)
        later = int(done.stdout.rpartition(" ")[2]) + 10
        wait_until(lambda: saved(tmp_path) >= later, "a checkpoint by the other")
        (tmp_path / "hurry").touch()
        code, said, summary = ended(process, tmp_path)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    (digest,) = {file.read_text() for file in tmp_path.glob("digest *")}
    assert (code, summary["status"], summary["digest"]) == (0, "completed", digest), said
    alone = lightwatch("run", "--tree", "1", "--out", "alone", "script.py", folder=tmp_path)
    assert alone.returncode == 0 and summary_of(tmp_path / "alone")["digest"] == digest, alone
    (text,) = given_up(tmp_path)
    assert "which wrote a part of it, was lost" in text and recomputed(tmp_path) == 0
    folders = (tmp_path / "out" / "checkpoints").glob("step-*")
    assert all((folder / "manifest.json").exists() for folder in folders), "nothing is left of the other"
    assert lightwatch("checkpoints", "verify", "out", folder=tmp_path).returncode == 0
