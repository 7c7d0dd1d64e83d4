"""Environments for peers that lightwatch doesn't need: ours, with one package more, each in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from .machine import ROOT
from .processes import Cannot

LOOPS_ELSEWHERE = ("accelerate", "lightning")


def python_with(package: str) -> str:
    """The interpreter of `.venv.PACKAGE`, made if it is not there. Raises Cannot.

    It sees the packages of this environment through a .pth file, so that torch is the very same.
    """
    folder = ROOT / f".venv.{package}"
    python = folder / "bin" / "python"
    if not _imports(python, package):
        _make(folder, python, package)
    return str(python)


def _make(folder: Path, python: Path, package: str) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], package)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    _run([str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), package], package)
    if not _imports(python, package):
        raise Cannot(f"{package} was installed in {folder} and can't be imported there")


def _imports(python: Path, package: str) -> bool:
    return python.exists() and subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode == 0


def _run(command: list[str], package: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Cannot(f"{package} can't be installed: {lines[-1] if lines else f'code {done.returncode}'}")
