"""A sphere dials whom control wants to be dialed, whatever it does itself, and tells whom it reached."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from control.keyfile import Pair
from control.protocol import Beat, Dial, Dialed, Member, Phase
from spheres.address import network_stack
from spheres.larder import Larder
from spheres.link import Link
from tests.spheres.fake_control import FakeControl

NOBODY_PORT = 9
WITHIN_S = 1.0


@pytest.fixture
def larder() -> Iterator[Larder]:
    """In a run with keys."""
    made = Larder(pair=Pair.draw())
    yield made
    made.close()


def peer(sphere: int, port: int, key: str = "") -> Member:
    return Member(sphere=sphere, path=f"a/{sphere}", port=port, key=key)


def told(control: FakeControl) -> list[Dialed]:
    control.until(lambda: bool(control.of(Dialed)))
    return control.of(Dialed)


def test_what_control_wants_to_be_dialed_is_dialed_before_training_begins(
    control: FakeControl, link: Link, larder: Larder
) -> None:
    """Nobody has to wait for it: the model may be built meanwhile. All are told of in one message."""
    control.say(Dial(peers=[peer(1, larder.port, larder.key), peer(2, NOBODY_PORT)], within_s=WITHIN_S))
    assert told(control) == [Dialed(tried=[1, 2], gone=[2])]
    assert link.standing.phase is Phase.ADMITTED


def test_nobody_elses_answer_counts(control: FakeControl, link: Link, larder: Larder) -> None:
    """Whoever listens at an address that two hosts have is not the one that is looked for: it can't prove its key."""
    control.say(Dial(peers=[peer(1, larder.port, Pair.draw().public)], within_s=WITHIN_S))
    assert told(control) == [Dialed(tried=[1], gone=[1])]


def test_heartbeats_go_on_while_a_dial_takes_its_time(control: FakeControl, link: Link) -> None:
    control.say(Dial(peers=[peer(1, NOBODY_PORT)], within_s=WITHIN_S))
    control.until(lambda: bool(control.of(Dialed)))
    order = [type(message) for message in control.received]
    assert order[: order.index(Dialed)].count(Beat) >= 5


def test_who_shares_a_network_stack_says_so() -> None:
    """Processes of one host do, those of another network namespace don't."""
    ask = [sys.executable, "-c", "from spheres.address import network_stack as s; print(s())"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() == network_stack()
    apart = subprocess.run(["unshare", "--net", *ask], capture_output=True, text=True)
    if apart.returncode:
        pytest.skip("network namespaces take root and Linux")
    assert apart.stdout.strip() not in ("", network_stack())
