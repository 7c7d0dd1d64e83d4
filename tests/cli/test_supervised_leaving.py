"""What signals mean to a supervisor and its worker. No torch here."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial

import pytest

from spheres.supervise import ONE_WORD_S
from tests.cli.commands import is_gone, wait_until
from tests.cli.house import House, items, next_item

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does for us is Linux's"),
]

LEAVES = "left = threading.Event(); pulse.listen(left.set); pulse(b'v')\nwhile not left.wait(0.01): pass\nreturn 0"
STAYS = "pulse.listen(lambda: Path({file!r}).touch()); pulse(b'v'); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("role", ["supervisor", "worker"])
def test_a_signal_to_either_process_asks_the_worker_to_leave(role: str, number: int, house: House) -> None:
    """Both end with 0, and no other life begins."""
    process = house.work(LEAVES).supervise()
    pid = next_item(process, "working")["pid"]
    os.kill(process.pid if role == "supervisor" else pid, number)
    told = items(process)
    assert process.wait() == 0 and len(house.lives()) == 1
    assert told[-1] == {"exited": "0", "pid": pid, "code": 0, "signal": None, "final": True}
    assert ({"leaving": "0", "why": signal.Signals(number).name} in told) == (role == "supervisor")


def test_a_second_signal_ends_a_sphere_at_once_but_not_within_a_second(house: House) -> None:
    """Three that come together are one, as those that a group and its leader get."""
    file = house.folder / "asked"
    process = house.work(STAYS.format(file=str(file))).supervise()
    next_item(process, "working")
    os.kill(process.pid, signal.SIGTERM)
    next_item(process, "leaving")
    asked_s = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
    wait_until(file.exists, "the worker's knowledge of it")
    wait_until(lambda: time.monotonic() - asked_s > ONE_WORD_S, "the end of the first word")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 1 and len(house.lives()) == 1
    wait_until(partial(is_gone, house.lives()[0][0]), "the end of the worker", limit_s=5)


def test_a_worker_that_dies_while_it_leaves_has_no_successor(house: House) -> None:
    """Nobody is to be there; but the others have lost something, so the code is 1."""
    process = house.work("pulse.listen(lambda: os.kill(os.getpid(), signal.SIGKILL)); pulse(b'v'); time.sleep(600)")
    supervisor = process.supervise()
    next_item(supervisor, "working")
    os.kill(supervisor.pid, signal.SIGTERM)
    assert supervisor.wait(10) == 1 and len(house.lives()) == 1


def test_what_a_worker_starts_heeds_signals_as_usual(house: House) -> None:
    """A child that it forks ends by SIGTERM, and the worker is not asked to leave by what its child does."""
    body = (
        "child = os.fork()\n"
        "if child == 0: time.sleep(600)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "return 0 if os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM else 1"
    )
    assert house.work(body).supervise().wait(20) == 0
