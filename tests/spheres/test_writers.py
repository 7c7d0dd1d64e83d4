"""Several spheres write one checkpoint: who they are, and what control and they say to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from control.protocol import Hello, Member, SaveOver, SaveState, Saving, Seal, ToControl, ToSphere, Welcome
from lightwatch.checkpoints import checkpoints_in, newest_whole
from lightwatch.manifest import read_manifest
from lightwatch.parts import read_state, state_digest
from lightwatch.saver import Saver
from lightwatch.snapshot import Snapshot
from lightwatch.sync import Position as Place
from spheres.link import Link
from spheres.writers import TreeWriters, writers_of
from tests.spheres.fake_control import FakeControl

GENERATION = (3, 4)
ABOUT = {"version": 20, "lineage": 0}


def members(*paths: str) -> list[Member]:
    return [Member(sphere=11 + place, path=path) for place, path in enumerate(paths)]


@pytest.mark.parametrize(
    "paths, at, expected",
    [
        (("0/0", "0/1", "1/0", "1/1"), "", [11, 12]),
        (("0", "1", "2"), "", [11, 12, 13]),
        (("eu/a/0", "eu/b/0", "us/b/0"), "", [11]),
        (("eu/a/0", "eu/b/0", "us/b/0", "us/b/1"), "us/b", [13, 14]),
        (("eu/a/0", "eu/b/0", "us/b/0"), "eu", [11, 12]),
        (("eu/a/0", "eu/ab/0"), "eu/ab", [12]),
        (("eu/a/0", "us/b/0"), "asia", [11]),
        (("us/b/0", "us/b/1"), "eu/a", [11, 12]),
    ],
)
def test_the_spheres_of_one_host_write(paths: tuple[str, ...], at: str, expected: list[int]) -> None:
    """The named one's while any of them is there, else the first member's."""
    assert writers_of(members(*paths), at) == expected


class Writer:
    """Sphere number `sphere`, with a control of its own that the test speaks for."""

    def __init__(self, folder: Path, sphere: int) -> None:
        def answers(message: ToControl) -> list[ToSphere]:
            return [Welcome(sphere=sphere, incarnation=3)] if isinstance(message, Hello) else []

        self.control = FakeControl(answers)
        self.link = Link(self.control.address, Hello(run_id="r", path=str(sphere), pid=1, host="h"), 1.0)
        self.link.open(5.0)
        self.saver = Saver(folder, "r", 3)

    def begin(self, state: Snapshot) -> None:
        self.saver.begin(state, ABOUT, None, TreeWriters(self.link, [11, 12], GENERATION, Place(version=20), 2))

    def said(self, state: SaveState) -> Saving:
        """Wait until it says so."""
        self.control.until(lambda: any(each.state is state for each in self.control.of(Saving)))
        return next(each for each in self.control.of(Saving) if each.state is state)

    def hears_the_end(self, kept: bool) -> None:
        self.control.say(SaveOver(generation=GENERATION, version=20, kept=kept))

    def close(self) -> None:
        self.link.close()
        self.saver.flush()
        self.control.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def both(folder: Path) -> Iterator[list[Writer]]:
    with ExitStack() as stack:
        writers = [Writer(folder, 11), Writer(folder, 12)]
        for writer in writers:
            stack.callback(writer.close)
        yield writers


@pytest.fixture
def state() -> Snapshot:
    """Of several pieces, so that a tensor lies in both parts."""
    torch.manual_seed(1)
    tensors = {"parameters.a": torch.randn(1000, 700), "parameters.b": torch.randn(3), "optimizer.m": torch.randn(9)}
    return Snapshot(tensors, {"position": [0, 20, 0, 0], "exponents": [1, 2]})


def seal(both: list[Writer]) -> None:
    parts = [part for writer in both if (part := writer.said(SaveState.WRITTEN).part)]
    told = Seal(generation=GENERATION, version=20, parts=parts, control='{"tree": "2"}', spheres='[{"path": "0"}]')
    both[0].control.say(told)


def test_two_writers_make_one_checkpoint(both: list[Writer], folder: Path, state: Snapshot) -> None:
    """It holds the state that one process would have saved, and what control said of itself; nobody is through before
    control knows of it."""
    for writer in both:
        writer.begin(state)
    assert both[1].said(SaveState.WRITING).writers == [11, 12]
    seal(both)
    sealed = both[0].said(SaveState.SEALED)
    assert all(writer.saver.busy for writer in both)
    for writer in both:
        writer.hears_the_end(kept=True)
        writer.saver.flush()
        assert [saved.error for saved in writer.saver.news()] == [None]
    manifest = read_manifest(folder / "step-20")
    assert len(manifest.files) == 2 and (manifest.control, manifest.spheres) == ('{"tree": "2"}', ({"path": "0"},))
    assert sealed.digest == manifest.digest == state.digest()
    assert manifest.state_digest == state_digest(state) == state_digest(read_state(folder / "step-20", manifest))
    assert not both[1].control.of(Saving)[-1].digest  # the first alone seals


def test_what_is_given_up_is_cleaned_away_by_all(both: list[Writer], folder: Path, state: Snapshot) -> None:
    for writer in both:
        writer.begin(state)
    for writer in both:
        writer.said(SaveState.WRITTEN)
        writer.hears_the_end(kept=False)
        writer.said(SaveState.FAILED)
        writer.saver.flush()
        assert writer.saver.failed == 0  # nothing is wrong with this disk
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_what_control_does_not_take_is_unsealed(both: list[Writer], folder: Path, state: Snapshot) -> None:
    """Control may find, of a manifest that is on the disk, that its weights are not those of the version."""
    for writer in both:
        writer.begin(state)
    seal(both)
    both[0].said(SaveState.SEALED)
    for writer in both:
        writer.hears_the_end(kept=False)
        writer.saver.flush()
    assert checkpoints_in(folder) == []


def test_the_end_of_another_save_ends_nothing(both: list[Writer], folder: Path, state: Snapshot) -> None:
    both[1].begin(state)
    both[1].said(SaveState.WRITTEN)
    both[1].control.say(SaveOver(generation=(3, 3), version=20, kept=False))
    both[1].control.say(SaveOver(generation=GENERATION, version=19, kept=False))
    both[1].hears_the_end(kept=False)
    both[1].said(SaveState.FAILED)
    assert [each.state for each in both[1].control.of(Saving)] == [
        SaveState.WRITING,
        SaveState.WRITTEN,
        SaveState.FAILED,
    ]


def test_a_disk_that_refuses_is_told_to_control(both: list[Writer], folder: Path, state: Snapshot) -> None:
    folder.write_text("this is no folder")
    both[0].begin(state)
    assert (
        "File exists" in both[0].said(SaveState.FAILED).why or "Not a directory" in both[0].said(SaveState.FAILED).why
    )
    both[0].saver.flush()
    assert both[0].saver.failed == 1


def test_a_part_that_was_cut_is_not_sealed(both: list[Writer], folder: Path, state: Snapshot) -> None:
    for writer in both:
        writer.begin(state)
    part = both[1].said(SaveState.WRITTEN).part
    assert part is not None
    with (folder / "step-20" / part.name).open("r+b") as file:
        file.truncate(part.bytes - 1)
    seal(both)
    assert "not as long as its writer said" in both[0].said(SaveState.FAILED).why
    assert newest_whole(folder).path is None


def test_who_leaves_before_all_parts_are_there_takes_its_own_away(
    both: list[Writer], folder: Path, state: Snapshot
) -> None:
    both[1].begin(state)
    both[1].said(SaveState.WRITTEN)
    both[1].link.close()
    both[1].saver.flush()
    assert [path for path in folder.rglob("*") if path.is_file()] == []
