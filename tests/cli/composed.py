"""A project of docker-compose on a real engine: a name, network and volumes of its own; nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.cli.commands import ROOT

PROJECT = f"lightwatch-test-{os.getpid()}"
JOB = """
learning_rate = 1e-2
micro_batches = 4
batch_size = 4
max_steps = 2000
warmup_steps = 10
log_interval = 100
eval_interval = 0
eval_batches = 2
save_interval = 300
seed = 3
[model]
layers = 1
heads = 2
width = 16
context = 16
[data]
path = "{data}"
sequence_length = 16
"""


def why_not() -> str:
    """Why containers can't be tried here; empty: they can."""
    if shutil.which("docker") is None or _said(["docker", "info"]) is None:
        return "no Docker engine answers here"
    if not _command():
        return "neither docker-compose nor docker compose is here"
    if os.geteuid():
        return "a container's process can be killed from the host by root alone"
    torch = metadata.version("torch")
    if not list((ROOT / "wheelhouse").glob(f"torch-{torch}-*.whl")):
        return f"wheelhouse/ holds no wheel of torch {torch}, from which the image would be made: see Dockerfile"
    return ""


def _said(command: list[str]) -> str | None:
    """What it prints; None if it fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None


def _command() -> list[str]:
    """The old command where there is one, else the current one."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    return ["docker", "compose"] if _said(["docker", "compose", "version"]) is not None else []


class Project:
    """The repository's docker-compose.yml, with a small job that every service finds in /job."""

    def __init__(self, folder: Path, spheres: int, more: Mapping[str, object]) -> None:
        job = folder / "job"
        job.mkdir()
        (job / "text.txt").write_text("".join(f"line {n}: the quick brown fox, {n * n} times\n" for n in range(400)))
        (job / "job.toml").write_text(JOB.format(data="/job/text.txt"))
        (folder / "alone.toml").write_text(JOB.format(data=job / "text.txt"))
        mounted: dict[str, dict[str, object]] = {
            name: {"volumes": [f"{job}:/job:ro"]} for name in ("control", "eu", "us")
        }
        for name, value in more.items():
            mounted[name]["environment"] = value
        self._over = folder / "over.yml"
        self._over.write_text(json.dumps({"services": mounted}))  # JSON is YAML
        self._environment = {**os.environ, "SPHERES": str(spheres), "STEPS": "", "CONFIG": "/job/job.toml"}

    def compose(self, *words: str, limit_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """docker-compose with these words; its code and all it said."""
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(self._over)]
        return subprocess.run(
            [*_command(), "-p", PROJECT, *files, "--project-directory", str(ROOT), *words],
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=limit_s,
        )

    def container(self, service: str, number: int = 1) -> str:
        """Its id, whether it runs or has ended."""
        labels = {"project": PROJECT, "service": service, "container-number": number}
        wanted = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return docker("ps", "--all", "--quiet", "--no-trunc", *wanted).strip()

    def kill(self, container: str) -> None:
        """The main process of the container, by SIGKILL from outside: no wish of anybody's, as `docker kill` is."""
        pid = int(docker("inspect", "--format", "{{.State.Pid}}", container))
        assert pid > 1, "it has ended before it could be killed"
        os.kill(pid, signal.SIGKILL)

    def file(self, service: str, path: str) -> bytes:
        """A file in a service's container, also if it has ended."""
        name = f"{self.container(service)}:/var/lib/lightwatch/{path}"
        archive = subprocess.run(["docker", "cp", name, "-"], capture_output=True, check=True, timeout=30).stdout
        return subprocess.run(["tar", "xO"], input=archive, capture_output=True, check=True, timeout=30).stdout

    def summary(self) -> dict[str, Any]:
        found = json.loads(self.file("control", "summary.json"))
        assert isinstance(found, dict)
        return found


def docker(*words: str, limit_s: float = 60) -> str:
    """What `docker` says; raises CalledProcessError."""
    ran = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, (words, ran.stderr)
    return ran.stdout


@contextmanager
def project(folder: Path, spheres: int = 2, **environment: Mapping[str, str]) -> Iterator[Project]:
    """A project that has not begun. environment: more variables, by service."""
    made = Project(folder, spheres, environment)
    try:
        yield made
    except BaseException as error:
        error.add_note(made.compose("logs", "--no-color", "--tail", "40").stdout)
        raise
    finally:
        ended = made.compose("down", "--volumes", "--timeout", "0")
        assert ended.returncode == 0, ended.stdout
