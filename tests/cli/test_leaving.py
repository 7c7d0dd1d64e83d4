"""A sphere that is asked to leave does so in good order: its work goes to the others, and nothing is computed twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from control.client import ControlClient
from control.errors import OrderRefused
from lightwatch.cli.chaos_measure import work
from lightwatch.cli.chaos_records import read_made
from lightwatch.cli.folder import RunFolder
from tests.cli.commands import lightwatch, summary_of, wait_until
from tests.cli.runs import digest_alone, ended, pid_of, running, versions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

STEPS = 300
MICRO_BATCHES = 3
"""As in the tiny project."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the same steps in one process."""
    return digest_alone(tmp_path_factory.mktemp("alone"), STEPS)


def recomputed(folder: Path) -> int:
    return work(read_made(RunFolder(folder / "out", "")), MICRO_BATCHES).recomputed_micro_batches


def has_left(folder: Path, path: str) -> bool:
    return not pid_of(folder, "worker", path) and not pid_of(folder, "supervisor", path)


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
