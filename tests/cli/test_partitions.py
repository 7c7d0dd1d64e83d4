"""Two hosts that are cut from each other, from control, or one way only: one tree goes on, the rest waits.

Real links between network namespaces; a cut loses packets and tells nobody.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pytest

from scripts.benchmarks.hosts import refuse_impossible
from scripts.benchmarks.processes import Cannot, environment
from tests.cli.commands import processes_of, wait_until
from tests.cli.islands import LINE, PEERS, Run, two_host_run, write_script

BOTH, FIRST, SECOND = None, 0, 1
"""Whose words are lost."""
CUTS: dict[str, list[tuple[str, int | None]]] = {
    "peers": [(PEERS, BOTH)],
    "peers, one way": [(PEERS, FIRST)],
    "peers, the other way": [(PEERS, SECOND)],
    "host": [(PEERS, BOTH), (LINE, BOTH)],
    "host, one way": [(PEERS, FIRST), (LINE, FIRST)],
    "host, the other way": [(PEERS, SECOND), (LINE, SECOND)],
    "line": [(LINE, BOTH)],
    "line, one way": [(LINE, FIRST)],
    "line, the other way": [(LINE, SECOND)],
    "relay": [],
}
STEPS = 170
"""More than are made while the links are cut and mended, at most ten a second; the rest is made in a hurry."""


def why_impossible() -> str:
    try:
        refuse_impossible()
    except Cannot as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(why_impossible()), reason=why_impossible() or "it can be done"),
]


def cut(run: Run, name: str) -> None:
    for link, side in CUTS[name]:
        if side is None:
            run.cut(link)
        else:
            run.cut_one_way(link, side)
    if name == "relay":
        run.relay.send_signal(signal.SIGSTOP)


def mend(run: Run) -> None:
    for link in (PEERS, LINE):
        run.mend(link)
    run.relay.send_signal(signal.SIGCONT)


@contextmanager
def undisturbed(folder: Path, steps: int) -> Iterator[subprocess.Popen[bytes]]:
    """The same steps in one process, in a folder of its own, beside what the test does."""
    folder.mkdir()
    script = write_script(folder, steps)
    (folder / "hurry").touch()
    process = subprocess.Popen([sys.executable, "-P", str(script)], cwd=folder, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def digests(folder: Path) -> list[str]:
    return [file.read_text() for file in folder.glob("digest-*")]


def goes_on_without(run: Run, host: set[str], since: int) -> bool:
    """Whether the newest generation is without this host, and has made some versions."""
    generation, paths = run.called()[-1]
    made = [each.version for each in run.made() if each.generation == generation and each.how == "tail"]
    return not paths & host and bool(made) and max(made) > since + 3


def refuse_second_tree(run: Run) -> None:
    """No version was made by two trees: whoever finishes a step is of a generation that shares a member with every
    other one that finished it."""
    members = dict(run.called())
    makers: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for made in run.made():
        if made.how == "tail":
            makers[made.version].add(made.generation)
    for version, generations in makers.items():
        for one, other in combinations(generations, 2):
            assert members[one] & members[other], (version, one, other)


def ends_as_if_nothing_had_been(run: Run, alone: subprocess.Popen[bytes], steps: int) -> None:
    (run.folder / "hurry").touch()
    assert [process.wait(60) for process in run.processes] == [0] * len(run.processes)
    assert alone.wait(60) == 0
    assert digests(run.folder) == digests(run.folder / "alone") * len(run.paths)
    assert [version for (version,) in run.read("SELECT version FROM versions ORDER BY version")] == [*range(steps + 1)]
    refuse_second_tree(run)


def test_a_host_that_is_cut_off_waits_and_comes_back(tmp_path: Path) -> None:
    """Cut from its peers alone, from all, and so that only its own words are heard. Those who can go on do, without
    it; it makes no version, costs nobody a generation while it is cut off, and is back at once after."""
    with undisturbed(tmp_path / "alone", STEPS) as alone, two_host_run(tmp_path, "a:2,b:1", STEPS) as run:
        for name in ("peers", "host", "peers, one way"):
            since, barred = run.version(), len(run.barred())
            cut(run, name)
            wait_until(lambda: goes_on_without(run, {"b/0"}, since), f"to go on after {name}")  # noqa: B023
            stands, (generation, _) = run.last()["b/0"], run.called()[-1]
            wait_until(lambda: run.version() > since + 18, "the time in which it is left out")  # noqa: B023
            assert run.last()["b/0"] == stands and run.called()[-1][0] == generation
            assert len(run.barred()) == barred + (name != "host")
            mend(run)
            now = run.version()
            wait_until(lambda: run.together(now), f"all to be back after {name}")  # noqa: B023
        assert "can't reach each other" in run.barred()[0]
        ends_as_if_nothing_had_been(run, alone, STEPS)
    assert processes_of(tmp_path) == []


@pytest.mark.soak
@pytest.mark.parametrize("tree", ["a:2,b:1", "a:2,b:2"])
@pytest.mark.parametrize("hold_s", [1, 5, 30])
@pytest.mark.parametrize("name", CUTS)
def test_any_cut_heals(name: str, hold_s: int, tree: str, tmp_path: Path) -> None:
    """However long it lasts, whoever is cut from whom, all are back and nothing shows in what was learned."""
    steps = 120 + 14 * hold_s
    with undisturbed(tmp_path / "alone", steps) as alone, two_host_run(tmp_path, tree, steps) as run:
        since, cut_s = run.version(), time.monotonic()
        cut(run, name)
        while time.monotonic() - cut_s < hold_s:
            time.sleep(0.05)
        assert hold_s < 15 or run.version() > since + 3
        mend(run)
        now = run.version()
        wait_until(lambda: run.together(now), "all to be back", limit_s=60)
        ends_as_if_nothing_had_been(run, alone, steps)
    assert processes_of(tmp_path) == []
