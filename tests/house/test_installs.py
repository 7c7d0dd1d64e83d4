"""Installed elsewhere: as a wheel and editable, alone and beside a distribution that ships a `control` of its own.

Everything is offline and without dependencies; those are lent from the environment that runs the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

import lightwatch
from lightwatch.exact import KERNEL
from tests.house.source import PACKAGES, ROOT, python_files

pytestmark = pytest.mark.timeout(180)


def run(*command: str | Path, cwd: Path, lend: bool = False) -> subprocess.CompletedProcess[str]:
    """lend: what our own site-packages hold is on the path, torch and zmq among it, but not what finds ourselves."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if lend:
        environment["PYTHONPATH"] = str(lent(cwd / "lent"))
    arguments = [str(word) for word in command]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def lent(folder: Path) -> Path:
    """Links to our site-packages, all but an editable installation's: its finder has the name of the one under test."""
    if not folder.exists():
        folder.mkdir()
        for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not entry.name.startswith(("__editable__", "lightwatch")) and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def build(hook: str, tree: Path, folder: Path, compiler: str | None = None) -> Path:
    """Call one hook of the build backend, as pip would, and give the wheel that it makes."""
    set_compiler = f"import os; os.environ['CC'] = {compiler!r}; " if compiler else ""
    code = f"{set_compiler}import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    done = run(sys.executable, "-c", code, folder, cwd=tree)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what gets packaged, so that building leaves nothing in this folder."""
    tree = tmp_path_factory.mktemp("a source with blanks")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def wheels(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ours in both forms, and theirs: a made-up distribution that has a package `control`."""
    folder = tmp_path_factory.mktemp("wheels")
    (folder / "editable").mkdir()
    return {
        "wheel": build("build_wheel", tree, folder),
        "editable": build("build_editable", tree, folder / "editable"),
        "theirs": made_up(folder),
    }


def made_up(folder: Path) -> Path:
    about = "Metadata-Version: 2.1\nName: steering\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        "control/__init__.py": '"""Steering of feedback systems."""\n\nPID = 3\n',
        "control/plant.py": "",
        "steering-1.0.dist-info/METADATA": about,
        "steering-1.0.dist-info/WHEEL": kind,
    }
    record = "steering-1.0.dist-info/RECORD"
    wheel = folder / "steering-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, record: "".join(f"{name},,\n" for name in [*files, record])}.items():
            archive.writestr(name, text)
    return wheel


def environment_with(folder: Path, *wheels: Path, name: str = "an environment") -> Path:
    """A new environment with the wheels installed one after the other; gives its bin folder."""
    venv = folder / name
    assert run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder).returncode == 0
    for wheel in wheels:
        pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--disable-pip-version-check")
        options = ("--quiet", "--no-index", "--no-deps", "--no-compile")
        done = run(*pip, "install", *options, wheel, cwd=folder)
        assert done.returncode == 0, done.stderr
    return venv / "bin"


def test_the_wheel_holds_the_packages_and_nothing_else(wheels: dict[str, Path]) -> None:
    """Every file of ours, what was compiled, the marks that it is typed, the licence; no tests, no scripts."""
    with zipfile.ZipFile(wheels["wheel"]) as archive:
        names = set(archive.namelist())
    ours = {str(file.relative_to(ROOT)) for file in python_files(*PACKAGES)}
    more = {"lightwatch/py.typed", "lightwatch/_sums.pyi", "lightwatch/errors.md"}
    if KERNEL == "c":
        more.add(f"lightwatch/_sums{EXTENSION_SUFFIXES[0]}")
    assert {name for name in names if ".dist-info/" not in name} == ours | more
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.parametrize("form", ["wheel", "editable"])
def test_it_works_where_it_is_installed(wheels: dict[str, Path], tmp_path: Path, form: str) -> None:
    """The command, the module, and names from `lightwatch` alone, in a folder that is not ours."""
    binaries = environment_with(tmp_path, wheels[form])
    for command in ([binaries / "lightwatch"], [binaries / "python", "-m", "lightwatch"]):
        done = run(*command, "--version", cwd=tmp_path, lend=True)
        assert (done.returncode, lightwatch.__version__ in done.stdout) == (0, True), done.stderr
        assert run(*command, "explain", "LW901", cwd=tmp_path, lend=True).stdout.startswith("LW901 ")
    code = "from lightwatch import ControlClient, GPTConfig, TrainingConfig; TrainingConfig()"
    done = run(binaries / "python", "-c", code, cwd=tmp_path, lend=True)
    assert done.returncode == 0, done.stderr
    done = run(binaries / "python", "-c", "from lightwatch.exact import KERNEL; print(KERNEL)", cwd=tmp_path, lend=True)
    assert done.stdout.strip() == KERNEL, done.stderr


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_without_a_compiler_it_installs_all_the_same(tree: Path, tmp_path: Path, hook: str) -> None:
    """And says at debug level that torch does the sums."""
    bare = tmp_path / "bare"
    shutil.copytree(tree, bare, ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info"))
    wheel = build(hook, bare, tmp_path, compiler="no-such-compiler")
    binaries = environment_with(tmp_path, wheel)
    code = "import logging; logging.basicConfig(level='DEBUG'); from lightwatch.exact import KERNEL; print(KERNEL)"
    done = run(binaries / "python", "-c", code, cwd=tmp_path, lend=True)
    assert done.stdout.strip() == "torch", done.stderr
    assert "DEBUG:lightwatch.exact:gradients are summed by torch calls" in done.stderr


@pytest.mark.parametrize("order", [("editable", "theirs"), ("theirs", "editable"), ("wheel", "theirs")])
def test_a_foreign_control_is_named_and_nothing_runs(
    wheels: dict[str, Path], tmp_path: Path, order: tuple[str, str]
) -> None:
    """Exit code 2 and one sentence: whose it is, and what to do. An editable install of ours loses in any order."""
    binaries = environment_with(tmp_path, *(wheels[name] for name in order))
    done = run(binaries / "lightwatch", "status", tmp_path, cwd=tmp_path, lend=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "steering" in done.stderr
    assert "an environment of its own" in done.stderr
    code = "import lightwatch\ntry: lightwatch.ControlClient\nexcept ImportError as error: print(error)"
    assert "steering" in run(binaries / "python", "-c", code, cwd=tmp_path, lend=True).stdout
    assert run(binaries / "lightwatch", "--help", cwd=tmp_path, lend=True).returncode == 0


def test_a_wheel_installed_after_a_foreign_control_works(wheels: dict[str, Path], tmp_path: Path) -> None:
    """The folder is shared, but what is imported is ours."""
    binaries = environment_with(tmp_path, wheels["theirs"], wheels["wheel"])
    done = run(binaries / "python", "-c", "from lightwatch import ControlClient", cwd=tmp_path, lend=True)
    assert done.returncode == 0, done.stderr


def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment_of_scripts", ROOT / "scripts" / "environment.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_environment_works_after_it_was_renamed(wheels: dict[str, Path], tmp_path: Path) -> None:
    """The console script names its interpreter by the path that it has then, and .venv.new is nowhere."""
    made = environment_with(tmp_path, wheels["wheel"], name=".venv.new").parent
    final = tmp_path / ".venv"
    set_up().move_paths(made, final)
    made.rename(final)
    done = run(final / "bin" / "lightwatch", "--version", cwd=tmp_path, lend=True)
    assert done.returncode == 0, done.stderr
    texts = [file.read_bytes() for file in (final / "bin").iterdir() if not file.is_symlink()]
    assert not any(os.fsencode(made) in text for text in [*texts, (final / "pyvenv.cfg").read_bytes()])


@pytest.mark.cluster
def test_a_run_from_a_wheel_leaves_a_model(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Launcher, control and spheres find each other where they are installed, whatever lies in this folder."""
    binaries = environment_with(tmp_path, wheels["wheel"])
    for name in ("control.py", "spheres.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the current folder')\n")
    (tmp_path / "text").write_text("It is the same on every tree. " * 200)
    (tmp_path / "small.toml").write_text(
        "micro_batches = 2\n[model]\nlayers = 1\nheads = 2\nwidth = 16\ncontext = 32\n[data]\nsequence_length = 32\n"
    )
    options = ("--config", "small.toml", "--data", "text", "--tree", "2", "--steps", "2", "--out", "run", "--json")
    done = run(binaries / "lightwatch", "train", *options, cwd=tmp_path, lend=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 2
    assert (tmp_path / "run" / "model.safetensors").exists()
