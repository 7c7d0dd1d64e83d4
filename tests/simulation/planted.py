"""Bugs as text: planted one at a time into a copy of the packages, and looked for there by a process of its own.

`python -m tests.simulation.planted THEME FIRST MOST`, run in such a copy, plays its seeds and says what was noticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("control", "spheres", "lightwatch", "tests/simulation")
TIMEOUT_S = 280.0
SEARCH_S = 60.0
"""Of a processor's time, for one bug."""
SEEDS = 1_000


@dataclass(frozen=True)
class Bug:
    """One wrong line. laws: by which it may be noticed first. theme: of the seeds that are tried; seed: the first of
    them, which noticed it when it was planted last: where code has changed since, others are looked through."""

    name: str
    what: str
    laws: list[str]
    theme: str
    seed: int
    file: str
    old: str
    new: str


class Stale(Exception):
    """The text that a bug replaces is not in its file, or not once."""


def bugs() -> list[Bug]:
    """All of planted.toml."""
    text = Path(__file__).with_name("planted.toml").read_text(encoding="utf-8")
    return [Bug(**each) for each in tomllib.loads(text)["bug"]]


def planted(text: str, bug: Bug) -> str:
    """The file with the bug in it. Raises Stale."""
    if text.count(bug.old) != 1:
        raise Stale(f"{bug.name}: {bug.file} holds its text {text.count(bug.old)} times, expected once; mend the bug")
    return text.replace(bug.old, bug.new)


def noticed(bug: Bug, folder: Path) -> dict[str, str]:
    """The seed, the law and what was broken, in a copy in `folder`; empty if no seed noticed anything."""
    for package in PACKAGES:  # with what was compiled: times are kept, so it is still good
        shutil.copytree(ROOT / package, folder / package)
    file = folder / bug.file
    file.write_text(planted(file.read_text(encoding="utf-8"), bug), encoding="utf-8")
    command = [sys.executable, "-m", "tests.simulation.planted", bug.theme, str(bug.seed), str(SEEDS)]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"{bug.name}: the copy can't be run:\n{done.stderr[-2000:]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def seeds_of(theme: str, most: int) -> Iterator[int]:
    """Seeds of the theme, and now and then one of everything."""
    from tests.simulation.faults import MIXED, theme_of

    tried, seed = 0, 0
    while tried < most:
        mine = theme_of(seed)
        if mine == theme or (mine == MIXED and seed % 90 == 1):
            yield seed
            tried += 1
        seed += 1


def main(arguments: list[str]) -> int:
    """Play until something is noticed."""
    from tests.simulation.story import played

    theme, first, most = arguments
    found = {}
    begin_s = time.process_time()
    for count, seed in enumerate(chain([int(first)], seeds_of(theme, int(most))), 1):
        run = played(seed)
        if run.law:
            found = {"law": run.law, "seed": str(seed), "what": run.what, "tried": str(count)}
            break
        if time.process_time() - begin_s > SEARCH_S:
            break
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
