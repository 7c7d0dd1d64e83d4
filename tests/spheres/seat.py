"""A sphere's Sync with a control of its own that says what the test says; its groups meet in torch's HashStore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from control.protocol import Generation, Go, Hello, How, Member, Position, Ready, ToControl, ToSphere, View, Welcome
from lightwatch.snapshot import Snapshot
from lightwatch.sync import Position as Place
from lightwatch.sync import Standing
from spheres import sync as module
from spheres.folder import Folder
from spheres.larder import Larder
from spheres.link import Link
from spheres.sync import TreeSync
from tests.spheres.fake_control import FakeControl

SILENCE_S = 1.0


def state_of(seed: int) -> Snapshot:
    return Snapshot({"parameters.w": torch.full((300,), float(seed))}, {"version": seed})


def standing(version: int = 0, *, seed: int | None = None, **more: Any) -> Standing:
    """What a trainer at a version says it holds."""
    snapshot = state_of(version if seed is None else seed)
    return Standing(Place(version=version), "d", snapshot=lambda: snapshot, **more)


class Seat:
    """Sphere `sphere` at `path`. `call` is control's View, `go` its Go; `ready` waits for the answer."""

    def __init__(self, folder: Path, sphere: int, path: str) -> None:
        def answers(message: ToControl) -> list[ToSphere]:
            return [Welcome(sphere=sphere, incarnation=1)] if isinstance(message, Hello) else []

        self.sphere = sphere
        self.kept: list[str] = []
        self.control = FakeControl(answers)
        self.larder = Larder()
        hello = Hello(run_id="r", path=path, pid=1, host="h", port=self.larder.port)
        self.member = Member(sphere=sphere, path=path, port=self.larder.port)
        self.link = Link(self.control.address, hello, SILENCE_S)
        self.folder = Folder(folder, path, keep=self._keep, configured=lambda config: None)
        self.sync = TreeSync(self.link, "r", SILENCE_S, larder=self.larder, folder=self.folder)
        self.link.open(5.0)

    def _keep(self, model: object) -> Path:
        self.kept.append(self.sync.path)
        return Path("model")

    def call(self, generation: Generation, members: list[Member]) -> None:
        self.control.say(View(generation=generation, members=members))

    def go(self, generation: Generation, how: How = How.HERE, **more: Any) -> None:
        position = more.pop("position", Position())
        deal = more.pop("deal", {self.sphere: [0, 1]})
        keep = more.pop("keep", False)
        self.control.say(Go(generation=generation, position=position, how=how, keep=keep, deal=deal, **more))

    def ready(self, generation: Generation) -> Ready:
        def said() -> bool:
            return any(ready.generation == generation for ready in self.control.of(Ready))

        self.control.until(said)
        return next(ready for ready in self.control.of(Ready) if ready.generation == generation)

    def close(self) -> None:
        self.sync._leave_generation()
        self.link.close()
        self.larder.close()
        self.control.close()


@contextmanager
def seated(folder: Path, monkeypatch: pytest.MonkeyPatch, *paths: str) -> Iterator[list[Seat]]:
    """Seats with ids from 11 on, whose groups can meet."""
    store = HashStore()
    monkeypatch.setattr(module, "LinkStore", lambda *_: store)
    seats = [Seat(folder, 11 + index, path) for index, path in enumerate(paths)]
    try:
        yield seats
    finally:
        for seat in seats:
            seat.close()
