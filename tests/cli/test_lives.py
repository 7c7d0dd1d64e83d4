"""A process that follows its launcher dies with it, and does not begin if that is dead already."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from spheres import restart
from tests.cli.commands import ROOT, is_gone, wait_until

FOLLOWER = """
import sys, time
sys.path.insert(0, {root!r})
from spheres.launch import follow_launcher
follow_launcher()
print("follows", flush=True)
time.sleep(600)
"""

LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {text!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word for it is Linux's")
def test_a_process_that_still_loads_dies_with_its_launcher() -> None:
    """It does not look at its lifeline yet; a loading torch can take longer than the 5 s that it has."""
    text = FOLLOWER.format(root=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", LAUNCHER.format(text=text)], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.kill()
    wait_until(partial(is_gone, pid), "the end of the process", limit_s=5)


def test_a_process_whose_launcher_is_gone_does_not_begin() -> None:
    """The end of file was there first."""
    text = FOLLOWER.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", text], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    assert done.returncode == 1 and done.stdout == b""


def test_lives_that_make_nothing_come_slower_and_then_no_more() -> None:
    """The first follows at once; the fifth in a row is the last."""
    in_vain, pauses = 0, []
    for _ in range(5):
        in_vain, pause_s = restart.next_life(in_vain, made=False)
        pauses.append(pause_s)
    assert pauses == [0.0, 0.1, 0.2, 0.4, None]


def test_a_life_that_made_a_version_is_followed_at_once() -> None:
    """Whatever was before."""
    assert restart.next_life(4, made=True) == (0, 0.0)
    assert restart.next_life(3, made=False)[1] == 0.4
