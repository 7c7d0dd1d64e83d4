"""What a sphere's process says with its exit code."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.protocol import Beat, End, Failed, Hello, Refused, ToControl, ToSphere, View, Welcome
from lightwatch import sync as seam
from spheres import worker
from spheres.launch import Pipes, Pulse
from spheres.post import Post
from tests.spheres.fake_control import FakeControl


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "control.json").write_text(json.dumps({"run_id": "r"}))
    yield tmp_path
    seam.current = None


def answers(message: ToControl) -> list[ToSphere]:
    """Admit everybody, and end the run for whoever has failed."""
    match message:
        case Hello():
            return [Welcome(sphere=7, incarnation=1)]
        case Failed():
            return [End(status="failed", reason=message.text)]
    return []


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("from lightwatch.sync import Sick\nraise Sick('flipped [LW304]')", 75, False),
        ("from spheres.link import LinkBroken\nraise LinkBroken('gone [LW901]')", 75, False),
        ("from spheres.graves import Worn\nraise Worn('too many [LW408]')", 75, False),
        ("raise ValueError('mine')", 1, True),
        ("from lightwatch.errors import DataError\nraise DataError('too short [LW102]')", 2, True),
        ("", 1, True),
        ("from lightwatch.errors import RunEnded\nraise RunEnded('completed')", 0, False),
        ("from lightwatch.errors import RunEnded\nraise RunEnded('failed')", 1, False),
    ],
)
def test_the_code_says_whether_a_successor_is_wanted(run_dir: Path, script: str, code: int, told: bool) -> None:
    """75: start me anew, the run goes on, and control is not told of a failure. 1 and 2 end the run, and say why."""
    file = run_dir / "script.py"
    file.write_text(script)
    with FakeControl(answers) as control:
        assert worker.main(Post(run_dir, control.address, "0/0", script=(str(file),)), former=4321) == code
        control.until(lambda: bool(control.received))
        hello = control.of(Hello)[0]
        assert (hello.path, hello.former, hello.port > 0) == ("0/0", 4321, True)
        assert bool(control.of(Failed)) == told


@pytest.mark.parametrize(
    ("path", "told", "expected"), [("0/0", 3, 3), ("eu/lab-3/2", None, 2), ("eu/lab-3/first", None, 0), ("7", None, 7)]
)
def test_the_trainer_learns_which_of_its_machines_spheres_it_is(
    run_dir: Path, path: str, told: int | None, expected: int
) -> None:
    """What whoever started it says, else the slot at the end of its path."""
    file = run_dir / "script.py"
    file.write_text("from lightwatch import sync\nraise ValueError(f'number {sync.current.local_rank}')")
    with FakeControl(answers) as control:
        assert worker.main(Post(run_dir, control.address, path, script=(str(file),), local_rank=told)) == 1
        assert f"number {expected}" in control.of(Failed)[0].text


def test_who_took_part_and_is_refused_when_it_is_back_begins_anew(run_dir: Path) -> None:
    """Its number was given up, not its place."""
    file = run_dir / "script.py"
    file.write_text(
        "from lightwatch import sync\n"
        "link = sync.current._link\n"
        "link.wait(lambda heard: heard.view, 10.0)\n"
        "link.wait(lambda heard: heard.end, 10.0)\n"
    )

    def gives_up(message: ToControl) -> list[ToSphere]:
        if isinstance(message, Hello):
            return [Welcome(sphere=7, incarnation=1), View(generation=(1, 1), members=[])]
        return [Refused(text="number 7 was given up; start it anew")] if isinstance(message, Beat) else []

    with FakeControl(gives_up) as control:
        assert worker.main(Post(run_dir, control.address, "0/0", script=(str(file),))) == 75


def test_who_is_refused_does_not_come_again(run_dir: Path) -> None:
    """A supervisor would otherwise ask for ever."""
    heard, told = os.pipe()
    with FakeControl(lambda message: [Refused(text="0/0 is taken")]) as control:
        assert worker.main(Post(run_dir, control.address, "0/0"), pulse=Pulse(Pipes(-1, -1, -1, -1, heard))) == 1
    os.close(told)
    for thread in threading.enumerate():
        if thread.name == "words":
            thread.join(5.0)
    os.close(heard)
