"""Control and spheres in containers of a real Docker engine, by docker-compose.

Skipped where no engine answers, or where wheelhouse/ lacks the torch that the tests run with. The image is made first.
Last run on 2026-11-29 with Docker 20.10.24, docker-compose 1.29.2, torch 2.13.0+cpu, on 2 cores that others used too:
all passed, in some 4 minutes and another 2 for the image. `docker-compose up --exit-code-from control` was seen to go
on over the death of a sphere and of control too; that is not tested, for compose may as well end all at it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import lightwatch, summary_of, wait_until
from tests.cli.composed import Project, docker, project, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TARGET_LOSS = 1.0
"""A model that knows nothing begins at 5.5."""
SIGTERM_BEFORE_THE_END = 143


@pytest.fixture(scope="module", autouse=True)
def image(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := why_not():
        pytest.skip(reason)
    built = Project(tmp_path_factory.mktemp("image"), 2, {}).compose("build", "control", limit_s=800)
    assert built.returncode == 0, built.stdout[-3000:]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Project]:
    """A sphere in each region."""
    with project(tmp_path) as made:
        yield made


def test_up_trains_to_a_target_loss_and_has_the_exit_code_of_control(two: Project) -> None:
    """0, and no container was started anew."""
    up = two.compose("up", "--exit-code-from", "control", limit_s=300, STEPS="300")
    assert up.returncode == 0, up.stdout
    summary = two.summary()
    assert (summary["status"], summary["version"], summary["spheres"]) == ("completed", 300, 2)
    assert summary["loss"] < TARGET_LOSS < summary["loss_first"]
    assert "lightwatch join" not in up.stdout, "a secret in a log"
    for service in ("control", "eu", "us"):
        container = two.container(service)
        code = docker("inspect", "--format", "{{.State.ExitCode}}", container).strip()
        assert (code, _restarts(container)) == ("0", 0), service


def test_up_fails_when_a_sphere_gives_up(tmp_path: Path) -> None:
    """One whose torch can't be loaded: compose ends the others, and a run that was ended so is no success."""
    broken = tmp_path / "job" / "broken"
    with project(tmp_path, us={"PYTHONPATH": "/job/broken"}) as made:
        broken.mkdir()
        (broken / "torch.py").write_text("raise ImportError('not today')\n")
        up = made.compose("up", "--exit-code-from", "control", "--timeout", "5", limit_s=200)
    assert "was given up" in up.stdout and "[LW413]" in up.stdout
    assert up.returncode == SIGTERM_BEFORE_THE_END, up.stdout


def test_whose_main_process_is_killed_comes_back_and_the_weights_are_those_of_one_process(tmp_path: Path) -> None:
    """A sphere's, and then control's, in the middle of a run of three spheres in two regions; and at last all are, by
    hand, which is healed by hand."""
    with project(tmp_path, spheres=3) as made:
        up = made.compose("up", "--detach", "--scale", "eu=2", limit_s=300)
        assert up.returncode == 0, up.stdout
        control, sphere = made.container("control"), made.container("eu", 2)
        every = [control, made.container("eu"), sphere, made.container("us")]
        docker("exec", control, "lightwatch", "wait", ".", "--version", "50", "--timeout", "100", limit_s=120)
        made.kill(sphere)
        wait_until(lambda: _is_back(sphere), "a killed sphere's next life", limit_s=60)
        wait_until(lambda: _generation(control) >= (1, 3), "its place in the tree", limit_s=100)
        made.kill(control)
        wait_until(lambda: _generation(control) >= (1, 3), "control's next life", limit_s=60)
        assert [_restarts(each) for each in every] == [1, 0, 1, 0]
        for move in ("kill", "start"):
            moved = made.compose(move)
            assert moved.returncode == 0, moved.stdout
        wait_until(lambda: _generation(control) > (1, 3), "a tree of those who come back", limit_s=100)
        assert docker("wait", *every, limit_s=400).split() == ["0"] * 4
        assert [_restarts(each) for each in every] == [0] * 4, "who has finished stays finished"
        summary = made.summary()
    alone = lightwatch(
        "train", "--tree", "1", "--config", "alone.toml", "--out", "alone", folder=tmp_path, timeout_s=300
    )
    assert alone.returncode == 0, alone.stderr
    expected = summary_of(tmp_path / "alone")
    assert (summary["version"], summary["digest"]) == (expected["version"], expected["digest"])
    assert summary["loss"] == expected["loss"] < TARGET_LOSS


def test_control_s_keys_are_out_of_a_spheres_reach_and_the_network_leads_nowhere(two: Project) -> None:
    up = two.compose("up", "--detach", limit_s=300)
    assert up.returncode == 0, up.stdout
    control, sphere = two.container("control"), two.container("eu")
    assert docker("exec", sphere, "ls", "/keys").split() == ["sphere.key"]
    assert "keys" in docker("exec", control, "ls", "/var/lib/lightwatch").split()
    assert "keys" not in docker("exec", sphere, "ls", "/var/lib/lightwatch").split()
    networks = docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", sphere)
    (network,) = json.loads(networks)
    assert docker("network", "inspect", "--format", "{{.Internal}}", network).strip() == "true"


def _is_back(container: str) -> bool:
    """In a second life, and found healthy in it."""
    health = docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()
    return (_restarts(container), health) == (1, "healthy")


def _restarts(container: str) -> int:
    """By the engine, since somebody last started it by hand."""
    return int(docker("inspect", "--format", "{{.RestartCount}}", container))


def _generation(control: str) -> tuple[int, ...]:
    """The life of control in which the tree in force was made, and its number: the first life's third tree has the
    killed sphere again. (0, 0): control is away."""
    try:
        return tuple(
            json.loads(docker("exec", control, "lightwatch", "status", ".", "--json", limit_s=15))["generation"]
        )
    except (AssertionError, ValueError, subprocess.TimeoutExpired):  # it died meanwhile, with half an answer or none
        return (0, 0)
