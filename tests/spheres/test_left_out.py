"""A sphere that is left out of a generation tells control when it can reach all its members."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from control.protocol import Beat, End, Member
from lightwatch.errors import RunEnded
from spheres.larder import Larder
from tests.spheres.seat import Seat, seated, standing

FIRST, SECOND = (1, 1), (1, 2)
NOBODY_PORT = 9


def wait_and_end(seat: Seat) -> None:
    with pytest.raises(RunEnded):
        seat.sync.begin(standing())


def says(seat: Seat, generation: tuple[int, int], unreachable: list[int]) -> bool:
    beats = [message for message in seat.control.received if isinstance(message, Beat)]
    return any(beat.generation == generation and beat.unreachable == unreachable for beat in beats)


def test_a_sphere_that_is_left_out_looks_until_it_finds_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No beat says that it found them before it has; of the next generation it looks for the members of that one."""
    with seated(tmp_path, monkeypatch, "0/0") as (seat,):
        waits = threading.Thread(target=wait_and_end, args=(seat,))
        waits.start()
        larder = Larder()
        there, gone = Member(sphere=98, path="0/1", port=larder.port), Member(sphere=99, path="0/2", port=NOBODY_PORT)
        seat.call(FIRST, [there, gone])
        seat.control.until(lambda: says(seat, FIRST, [99]))
        seat.call(SECOND, [there])
        seat.control.until(lambda: says(seat, SECOND, []))
        of_first = [beat.unreachable for beat in seat.control.of(Beat) if beat.generation == FIRST]
        of_second = [beat.unreachable for beat in seat.control.of(Beat) if beat.generation == SECOND]
        assert [] not in of_first and of_second[0] == [98]
        seat.control.say(End(status="stopped", reason=""))
        waits.join(10)
        larder.close()
