"""Whoever is killed comes back, whatever it is, and the run ends as if nothing had been; the launcher leaves nobody."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from lightwatch.cli.folder import read_json
from lightwatch.cli.verdict import SPHERES_FOLLOW_S
from tests.cli.commands import is_gone, lightwatch, processes_of, summary_of, wait_until
from tests.cli.runs import begun, digest_alone, ended, pid_of, running, versions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

STEPS = 400


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the same steps in one process."""
    return digest_alone(tmp_path_factory.mktemp("alone"), STEPS)


def killed(folder: Path, role: str, path: str = "1") -> int:
    """Kill the process of this role; who it was."""
    pid = pid_of(folder, role, path)
    os.kill(pid, signal.SIGKILL)
    return pid


def is_back(folder: Path, role: str, former: int, path: str = "1") -> bool:
    return pid_of(folder, role, path) not in (0, former)


@pytest.mark.parametrize("role", ["worker", "supervisor", "template", "control"])
def test_a_process_that_is_killed_comes_back_and_the_digest_is_the_same(
    role: str, tmp_path: Path, undisturbed: str
) -> None:
    """Each kind of process of a run, while it trains."""
    with running(tmp_path, steps=STEPS) as process:
        workers = {path: pid_of(tmp_path, "worker", path) for path in ("0", "1")}
        former = killed(tmp_path, role)
        wait_until(partial(is_back, tmp_path, role, former), f"another {role}", limit_s=10)
        if role in ("template", "control"):
            assert {path: pid_of(tmp_path, "worker", path) for path in workers} == workers
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], summary["digest"]) == (0, "completed", undisturbed), said
    assert summary["control_restarts"] == (role == "control")
    assert summary["restarts"] == ({"1": 1} if role in ("worker", "supervisor") else {})
    states = sum(level["states"] for level in summary["traffic"])
    assert (states > 2 * (tmp_path / "out" / "model.safetensors").stat().st_size) == bool(summary["restarts"])


def test_the_workers_of_a_template_that_is_killed_have_successors_of_the_next_one(tmp_path: Path) -> None:
    """They are nobody's children any more, and no zombie of theirs stays while the run goes on."""
    with running(tmp_path) as process:
        template, worker = killed(tmp_path, "template"), killed(tmp_path, "worker")
        wait_until(partial(is_back, tmp_path, "template", template), "another template")
        wait_until(partial(is_back, tmp_path, "worker", worker), "another worker")
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the end of the zombie", limit_s=10)
        process.send_signal(signal.SIGTERM)
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped"), said


def test_all_workers_at_once_are_replayed_from_the_first_weights(tmp_path: Path, undisturbed: str) -> None:
    """Nobody holds the state any more but the disk, which holds version 0."""
    with running(tmp_path, steps=STEPS) as process:
        former = {path: killed(tmp_path, "worker", path) for path in ("0", "1")}
        for path, pid in former.items():
            wait_until(partial(is_back, tmp_path, "worker", pid, path), f"another worker at {path}", limit_s=10)
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["digest"]) == (0, undisturbed), said
    assert summary["restarts"] == {"0": 1, "1": 1}


def test_a_worker_that_is_killed_before_the_run_begins_is_started_anew(tmp_path: Path, undisturbed: str) -> None:
    """The others wait for it at the first roll call."""
    with begun(tmp_path, steps=STEPS) as process:
        wait_until(lambda: pid_of(tmp_path, "worker"), "a worker", limit_s=60)
        former = killed(tmp_path, "worker")
        assert versions(tmp_path) == 0
        wait_until(partial(is_back, tmp_path, "worker", former), "another worker")
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["digest"]) == (0, undisturbed), said


def test_a_loss_is_told_in_two_calm_lines(tmp_path: Path) -> None:
    """One when it is lost, one when it is at work again; nothing on stderr."""
    with running(tmp_path, steps=STEPS) as process:
        former = killed(tmp_path, "worker")
        wait_until(partial(is_back, tmp_path, "worker", former), "another worker")
        out, err = process.communicate(timeout=60)
    lost = [line for line in out.splitlines() if line.startswith("sphere 1")]
    assert lost[0] == "sphere 1 was ended by SIGKILL; it is started anew" and "at work again, " in lost[1]
    assert len(lost) == 2 and err == ""


def test_a_control_that_is_killed_comes_back_at_its_address(tmp_path: Path) -> None:
    """The spheres look for it there; it is told, and orders reach it."""
    with running(tmp_path) as process:
        about = read_json(tmp_path / "out" / "control.json") or {}
        former = killed(tmp_path, "control")
        wait_until(partial(is_back, tmp_path, "control", former), "another control", limit_s=10)
        again = read_json(tmp_path / "out" / "control.json") or {}
        assert again["address"] == about["address"] and again["incarnation"] == about["incarnation"] + 1
        stopped = lightwatch("stop", "out", folder=tmp_path)
        assert stopped.returncode == 0, stopped.stderr
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], summary["control_restarts"]) == (0, "stopped", 1)
    assert "control is back" in said


def test_a_control_that_lost_its_ledger_takes_the_spheres_word(tmp_path: Path, undisturbed: str) -> None:
    """The launcher sees that the disk is empty, and says so to the next control."""
    with running(tmp_path, steps=STEPS) as process:
        process.send_signal(signal.SIGSTOP)
        former = killed(tmp_path, "control")
        for file in (tmp_path / "out").glob("ledger.db*"):
            file.unlink()
        process.send_signal(signal.SIGCONT)
        wait_until(partial(is_back, tmp_path, "control", former), "another control", limit_s=10)
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], summary["digest"]) == (0, "completed", undisturbed), said


def test_a_stop_that_came_while_control_was_away_is_ordered_when_it_is_back(tmp_path: Path) -> None:
    """A signal is a fact, not an event."""
    with running(tmp_path) as process:
        killed(tmp_path, "control")
        process.send_signal(signal.SIGTERM)
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"], said.count("the run stops")) == (0, "stopped", 1), said


EVERYBODY = ("worker", "supervisor", "template", "control")


@pytest.mark.parametrize("stopped", [(), ("worker",), EVERYBODY], ids=["nobody", "worker", "everybody"])
def test_nothing_outlives_a_launcher_that_is_killed(stopped: tuple[str, ...], tmp_path: Path) -> None:
    """SIGKILL asks nobody; all are gone within 5 s, also who is stopped and can't look at any pipe."""
    with running(tmp_path) as process:
        everybody = processes_of(tmp_path)
        assert len(everybody) == 6  # control, template, two supervisors, two workers
        words = Path(f"/proc/{pid_of(tmp_path, 'template')}/cmdline").read_text().split("\0")
        for role in stopped:
            os.kill(pid_of(tmp_path, role), signal.SIGSTOP)
        process.kill()
        process.wait()
        wait_until(lambda: all(map(is_gone, everybody)), "the end of all processes", limit_s=5)
        assert words[words.index("--socket") + 1] not in Path("/proc/net/unix").read_text()


def test_nobody_waits_at_the_end_for_a_sphere_that_is_stopped(tmp_path: Path) -> None:
    """It was thrown out, and can't hear that the run is over. What others may take to write a model is longer."""
    with running(tmp_path) as process:
        os.kill(pid_of(tmp_path, "worker"), signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        code, said, summary = ended(process, tmp_path, limit_s=SPHERES_FOLLOW_S - 5)
    assert (code, summary["status"]) == (0, "stopped"), said


def test_a_second_signal_ends_also_who_is_stopped(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        for role in EVERYBODY:
            os.kill(pid_of(tmp_path, role), signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        code, _, summary = ended(process, tmp_path, limit_s=10)
    assert (code, summary["status"], summary["codes"]) == (130, "failed", ["LW514"])


def test_a_sphere_that_can_not_live_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """Five lives, none of which made a version; then control has nobody to wait for."""
    (tmp_path / "mine.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    result = lightwatch("run", "--tree", "2", "--out", "out", "mine.py", folder=tmp_path, timeout_s=60)
    summary = summary_of(tmp_path / "out")
    assert (result.returncode, summary["status"]) == (1, "failed") and processes_of(tmp_path) == []
    assert "was given up: it ended 5 times in a row" in summary["reason"] and "LW413" in summary["codes"]
    assert set(summary["restarts"].values()) <= {3, 4}
