"""A profile of a few steps: what it shows, when, and that it harms nothing."""

from __future__ import annotations

import errno
import logging
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import lightwatch.flat
import lightwatch.trace
import tests.trees
from lightwatch.errors import ConfigError
from lightwatch.sync import Alone, Position
from lightwatch.trace import Trace, as_json, first_shown
from lightwatch.trainer import Trainer
from spheres.groups import Groups
from spheres.levels import LevelPlan
from tests.models import gpt_trainer, small_trainer
from tests.profiles import Span, spans_of, steps_of
from tests.trees import TREES, ThreadSync, train_on_tree

PATIENCE_S = 30.0


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


class Gated(Groups):
    """Says when a bucket has set out, in `moving`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moving = threading.Event()

    def all_reduce(self, plan: LevelPlan, tensor: Tensor) -> None:
        self.moving.set()
        super().all_reduce(plan, tensor)

    def reduce(self, plan: LevelPlan, tensor: Tensor) -> None:
        self.moving.set()
        super().reduce(plan, tensor)


class Waiting(ThreadSync):
    """A sphere whose backward, once a bucket has left, doesn't end before that one has set out."""

    def deal(self, position: Position, training: int, evaluation: int) -> list[int]:
        self.groups.moving.clear()  # type: ignore[attr-defined]
        return super().deal(position, training, evaluation)

    def wait(self, gradient: Tensor) -> None:
        assert not self.pipeline._under_way or self.groups.moving.wait(PATIENCE_S)  # type: ignore[attr-defined]


def test_a_profile_shows_each_bucket_on_its_way_while_the_backward_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On every sphere of a tree, in each of its steps: all that is done, once, on the lane of whoever does it."""
    monkeypatch.setattr(lightwatch.flat, "BUCKET_ELEMENTS", 4096)
    monkeypatch.setattr(tests.trees, "Groups", Gated)

    def make(sync: Alone) -> Trainer:
        assert isinstance(sync, ThreadSync)
        sync.__class__ = Waiting
        trainer = gpt_trainer(sync, max_steps=9, eval_interval=7)
        last = trainer._replica.layout.slots[-1].parameter
        last.register_hook(sync.wait)  # type: ignore[no-untyped-call, attr-defined]
        trainer.profile(tmp_path)
        return trainer

    trainers = train_on_tree("2x2", make)
    buckets = range(len(trainers[0]._replica.layout.buckets))
    assert len(buckets) > 2
    computed: list[str] = []
    for path, trainer in zip(TREES["2x2"], trainers, strict=True):
        leads = trainer.sync.rank in (0, 2)
        stages = {f"{way} at level 1" for way in ("reduce", "broadcast")} | (
            {"all-reduce at level 0"} if leads else set()
        )
        spans = spans_of(tmp_path / f"{path}.json")
        shown = dict(steps_of(spans))
        assert list(shown) == ["step 6", "step 7", "step 8"]
        assert {span.lane for span in spans} == stages | {"training", "sum"}
        for within in shown.values():
            once = {"wait for the sums", "tail", "update", "tail: sum", *(f"bucket {n} leaves" for n in buckets)}
            once |= {f"bucket {n}: {stage}" for n in buckets for stage in stages}
            for name in once:
                assert names(within).count(name) == 1, name
            backward = [span for span in within if span.name == "backward"][-1]
            departure = next(span for span in within if span.name == "bucket 0 leaves")
            moving = min(span.begin for span in within if span.lane in stages)
            assert backward.holds(departure) and departure.begin <= moving < backward.end
            computed += [name for name in names(within) if name.startswith("compute")]
        assert any(re.fullmatch(r"eval \(8, [012]\)", span.name) for span in shown["step 8"]) == (path != "1/1")
    assert sorted(computed) == sorted(f"compute ({step}, {unit})" for step in (6, 7, 8) for unit in range(5))


def test_alone_a_profile_shows_the_same_without_reductions(tmp_path: Path) -> None:
    """Forward and backward lie in the micro-batch that they are of, and the bits are those of a run without."""
    plain, trainer = small_trainer(max_steps=10), small_trainer(max_steps=10)
    trainer.profile(tmp_path / "made" / "for it", steps=2)
    plain.train()
    trainer.train()
    assert trainer.digest() == plain.digest()
    spans = spans_of(tmp_path / "made" / "for it" / "0.json")
    assert {span.lane for span in spans} == {"training"}
    assert [name for name, _ in steps_of(spans)] == ["step 6", "step 7"]
    for name, within in steps_of(spans):
        number = name.removeprefix("step ")
        once = [f"{what} ({number}, {unit})" for unit in (0, 1) for what in ("data", "compute")]
        once += ["bucket 0 leaves", "wait for the sums", "tail", "update"]
        assert sorted(names(within)) == sorted([*once, *2 * ["forward", "backward"]])
        of_two = [span for span in within if span.name.startswith("compute")]
        for what in ("forward", "backward"):
            each = [span for span in within if span.name == what]
            assert all(outer.holds(inner) for outer, inner in zip(of_two, each, strict=True))


def test_without_a_profile_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, and no object that could take a span."""
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments: object) -> None:
        raise AssertionError("nobody asked for a profile")

    monkeypatch.setattr(Trace, "__init__", refuse)
    trainer = small_trainer()
    trainer.train()
    assert trainer.sync.trace is None and trainer._replica.trace is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full", [False, True])
def test_a_profile_that_cannot_be_written_is_one_line_in_the_log(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where its folder should be, or the disk is full: the training doesn't mind."""

    def no_room(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if full:
        monkeypatch.setattr(lightwatch.trace, "write_whole", no_room)
    else:
        (tmp_path / "folder").write_text("")
    trainer = small_trainer(max_steps=10)
    trainer.profile(tmp_path / "folder")
    with caplog.at_level(logging.WARNING, "lightwatch"):
        assert trainer.train().step == 10
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(tmp_path / "folder" / "0.json") in line and line.endswith("No space left on device [LW601]") == full
    assert full or line.endswith(" [LW604]")
    assert "\n" not in line and not list(tmp_path.rglob("*.json"))


def test_a_training_that_is_stopped_leaves_the_steps_it_has_made(tmp_path: Path) -> None:
    trainer = small_trainer(max_steps=30)
    trainer.profile(tmp_path, steps=10)
    trainer.on_step_end = lambda state: trainer.stop() if state.step == 7 else None
    trainer.train()
    shown = [name for name, _ in steps_of(spans_of(tmp_path / "0.json"))]
    assert shown == [f"step {number}" for number in range(6, trainer.version + 1)] and len(shown) < 10


def test_a_profile_asked_for_later_is_of_the_next_steps(tmp_path: Path) -> None:
    """By a callback in the middle of a training; and it is there as soon as they are made."""
    trainer = small_trainer(max_steps=30)
    there: list[int] = []

    def on_step_end(state: object) -> None:
        if trainer.version == 12:
            trainer.profile(tmp_path, steps=2)
        if (tmp_path / "0.json").exists():
            there.append(trainer.version)

    trainer.on_step_end = on_step_end
    trainer.train()
    assert [name for name, _ in steps_of(spans_of(tmp_path / "0.json"))] == ["step 13", "step 14"]
    assert there[0] == 14


@pytest.mark.parametrize(
    ("version", "total", "steps", "first"),
    [
        (0, 100, 3, 5),
        (0, 8, 3, 5),
        (0, 7, 3, 4),
        (0, 3, 3, 0),
        (0, 2, 3, 0),
        (9, 100, 3, 9),
        (9, 10, 3, 9),
        (0, 40, 36, 4),
    ],
)
def test_a_profile_begins_when_the_training_is_warm(version: int, total: int, steps: int, first: int) -> None:
    """From version 5 on; before, if so many steps would not follow; never behind where it stands."""
    assert first_shown(version, total, steps) == first


def test_a_profile_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 step, got 0"):
        small_trainer().profile(tmp_path, steps=0)


def test_an_enclosing_span_stands_first_also_where_both_begin_together(tmp_path: Path) -> None:
    """Viewers nest by order; the inner one was noted first, for it ended first."""
    (tmp_path / "0.json").write_text(
        as_json("sphere 0", [("a", "in", 1.0, 2.0), ("b", "x", 0.5, 9.0), ("a", "out", 1.0, 3.0)])
    )
    found = spans_of(tmp_path / "0.json")
    assert [(span.lane, span.name) for span in found] == [("a", "out"), ("a", "in"), ("b", "x")]
    assert (found[1].begin, found[1].end) == (1e6, 2e6)


def test_the_end_of_a_span_is_exactly_where_the_next_one_begins(tmp_path: Path) -> None:
    """As a viewer adds it up, on a machine that has been up for a month; a viewer nests them wrongly if it is not."""
    marks = [2.6e6 + n / 70_001 for n in range(2000)]
    spans = [("a", str(n), begin_s, end_s) for n, (begin_s, end_s) in enumerate(pairwise(marks))]
    (tmp_path / "0.json").write_text(as_json("sphere 0", spans))
    found = spans_of(tmp_path / "0.json")
    assert [span.name for span in found] == [str(n) for n in range(1999)]
    assert all(one.end == other.begin for one, other in pairwise(found))
    assert all(abs(span.end - 1e6 * mark) < 0.1 for span, mark in zip(found, marks[1:], strict=True))
