"""What the image and docker-compose.yml promise, as far as it can be seen without an engine.

The file is read as text, by its indents: no reader of all of YAML is among what the tests need.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib

import pytest

import spheres.__main__
from lightwatch.cli.arguments import build_parser
from tests.house.source import PACKAGES, ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SPHERES = ("eu", "us")


def below(text: str, indent: int = 0) -> dict[str, str]:
    """The names at this indent, and the lines of each without its comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: dict[str, list[str]] = {}
    for line in lines:
        match = re.match(rf" {{{indent}}}([\w.<-]+):(.*)", line)
        if match is not None and not line[:indent].strip():
            assert match[1] not in found, f"{match[1]} twice"
            found[match[1]] = [match[2].strip()]
        else:
            found[next(reversed(found))].append(line)
    return {name: "\n".join(more) for name, more in found.items()}


def services() -> dict[str, dict[str, str]]:
    """By name what each says, with what all spheres share where it refers to that."""
    shared = below(below(COMPOSE)["x-sphere"].partition("\n")[2], 2)
    found = {}
    for name, text in below(below(COMPOSE)["services"].partition("\n")[2], 2).items():
        said = below(text.partition("\n")[2], 4)
        found[name] = {**shared, **said} if said.pop("<<", "") == "*sphere" else said
    return found


def mounted(service: dict[str, str]) -> set[str]:
    return set(re.findall(r"- (\S+)", service["volumes"]))


def shell(service: str) -> str:
    """What the service's shell is told, as it reaches the shell."""
    text = services()[service]["command"].replace("$$", "$")
    script = text.partition("- -c\n")[2].strip().removeprefix("- ").removeprefix("|\n")
    assert "sh\n" in text and script
    return script


def test_the_file_does_for_the_old_compose_and_for_the_current_one() -> None:
    """No `version:`, which the current one complains of, and no `name:`, which the old one refuses."""
    assert set(below(COMPOSE)) == {"x-sphere", "services", "networks", "volumes"}


def test_there_are_control_and_spheres_in_two_regions_on_a_network_that_leads_nowhere() -> None:
    found = services()
    assert set(found) == {"control", *SPHERES}
    assert {name: below(found[name]["environment"].lstrip("\n"), 6)["REGION"] for name in SPHERES} == {
        name: name for name in SPHERES
    }
    assert all(said["networks"] == "[run]" and "ports" not in said for said in found.values())
    assert "internal: true" in below(COMPOSE)["networks"]


def test_whoever_dies_is_started_anew_and_whoever_is_done_is_not() -> None:
    """And each says whether it is well; spheres wait until control is."""
    found = services()
    assert {said["restart"] for said in found.values()} == {"on-failure"}
    assert all("test:" in said["healthcheck"] for said in found.values())
    assert all("service_healthy" in found[name]["depends_on"] for name in SPHERES)


def test_only_spheres_mount_the_keys_that_control_writes_and_none_mounts_controls_own() -> None:
    found = services()
    control = mounted(found.pop("control"))
    assert control == {"keys:/keys", "run:/var/lib/lightwatch"}
    assert all(mounted(said) == {"keys:/keys:ro", "state:/var/lib/lightwatch"} for said in found.values())


def test_what_the_services_run_is_shell_that_our_commands_understand() -> None:
    """With and without a config and a number of steps of one's own."""
    for service in ("control", "eu"):
        checked = subprocess.run(["sh", "-n"], input=shell(service), capture_output=True, text=True, timeout=20)
        assert checked.returncode == 0, checked.stderr
    for environment in ({}, {"CONFIG": "/job/a b.toml", "STEPS": "5"}):
        up = _words(shell("control"), environment)
        given = build_parser("").parse_args(up[up.index("up") :])
        assert (given.wait_for, given.machines, given.dir) == (2, 0, "."), "no join line, which is a secret, in a log"
        assert given.config == environment.get("CONFIG") and given.steps == (5 if environment else None)
    sphere = _words(shell("eu"), {"REGION": "eu", "HOSTNAME": "1f"})
    known = spheres.__main__._parser().parse_args(sphere[sphere.index("spheres") + 1 :])
    assert (known.at, known.key) == ("eu/1f", "/keys/sphere.key")


def _words(script: str, environment: dict[str, str]) -> list[str]:
    """The words with which the last command would be started."""
    told = script.replace("exec ", "printf '%s\\n' ").replace("test -e /keys/sphere.key", "true")
    ran = subprocess.run(
        ["sh", "-c", told], env={"SPHERES": "2", **environment}, capture_output=True, text=True, timeout=20, check=True
    )
    return ran.stdout.splitlines()


def test_the_image_is_made_of_what_the_package_is_made_of() -> None:
    """All that pyproject.toml and the Dockerfile name gets there, and nothing that a run or a person leaves here."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {line.removeprefix("!") for line in rules if line.startswith("!")}
    needed = {*PACKAGES, project["readme"], *project["license-files"], "pyproject.toml", "setup.py", "constraints.txt"}
    assert let_in == needed | {"wheelhouse"}


@pytest.mark.parametrize("said", ["python3 -m venv venv", "wheelhouse/*.whl", "USER lightwatch", "constraints.txt"])
def test_the_image_is_a_virtual_environment_of_the_tested_versions_that_runs_as_nobody_special(said: str) -> None:
    assert said in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_words_in_shell_are_told_apart() -> None:
    """The test's own tool: a blank in a variable is no end of a word."""
    assert _words('exec a "$SPHERES b" c', {}) == ["a", "2 b", "c"] == shlex.split("a '2 b' c")
