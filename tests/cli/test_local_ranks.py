"""The launcher counts the spheres that it starts here."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightwatch.cli import launch
from lightwatch.cli.folder import RunFolder
from lightwatch.config import RunConfig


def test_spheres_of_several_nodes_on_one_machine_have_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`2x2` is four spheres here, though each node has but a 0 and a 1: with four GPUs each gets its own."""
    told: dict[str, str] = {}

    def start(_module: str, words: list[str], *_more: Any, **_options: Any) -> SimpleNamespace:
        given = dict(itertools.pairwise(words))
        told[given["--path"]] = given["--local-rank"]
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(launch, "start_child", start)
    paths = ("0/0", "0/1", "1/0", "1/1")
    settings: Any = SimpleNamespace(
        folder=RunFolder(tmp_path, "r"), paths=paths, profile=False, script=(), run=RunConfig()
    )
    nobody: Any = None
    launched = launch.Launch(settings, nobody, nobody)
    launched._control_process = SimpleNamespace(address="tcp://127.0.0.1:9")
    for path in reversed(paths):
        launched._start_supervisor(path)
    assert told == {"0/0": "0", "0/1": "1", "1/0": "2", "1/1": "3"}
