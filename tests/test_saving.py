"""Checkpoints are written while training goes on, and no disk ends a training."""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightwatch.callbacks import CheckpointWritten
from lightwatch.checkpoints import checkpoints_in, newest_whole
from lightwatch.errors import ConfigError, StateError
from lightwatch.manifest import read_manifest
from lightwatch.metrics import TrainingState
from lightwatch.parts import read_state, state_digest
from lightwatch.sync import Alone, Wanted
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, small_trainer
from tests.states import equal, in_full, saved

pytestmark = pytest.mark.usefixtures("here")


def patient(trainer: Trainer) -> None:
    """Have each step wait for what is in flight: a small model's is faster than any disk."""
    saving = trainer._loop.saving
    trainer.on_step_end = lambda _: saving._saver.flush()


# ------------------------------------------------------------ saving


def test_a_checkpoint_says_what_it_is_of(here: Path) -> None:
    trainer = gpt_trainer(Alone(), max_steps=5, save_interval=0, checkpoint_dir="kept")
    trainer.train_steps(3)
    path = trainer.checkpoint()
    assert path == Path("kept/step-3")
    manifest = read_manifest(here / path)
    assert (manifest.version, manifest.lineage, manifest.seed, manifest.tree) == (3, 0, 1, "1")
    assert manifest.digest == trainer.digest() and manifest.data == trainer.data.fingerprint
    assert manifest.state_digest == state_digest(in_full(trainer))
    assert manifest.config["training"] == vars(trainer.config)
    state, best = trainer.state(), trainer.best_eval
    assert best is not None and manifest.metrics == {
        "epoch": 0, "loss": state.loss, "learning_rate": state.lr, "grad_norm": state.grad_norm,
        "eval_loss": trainer.eval_loss, "best_eval_loss": best[0], "best_eval_version": best[1],
    }  # fmt: skip
    assert Wanted(**manifest.orders) == Wanted()


def test_versions_are_saved_at_the_interval_and_so_many_stay(here: Path) -> None:
    """Each is that version of a training without saves."""
    digests: dict[int, str] = {}
    trainer = small_trainer(max_steps=12, save_interval=2, max_checkpoints=3)

    trainer.register_callback("weight_update", lambda state: digests.update({state.step: trainer.digest()}))
    patient(trainer)
    trainer.train()
    assert saved(here / "checkpoints") == [8, 10, 12]
    for found in checkpoints_in(here / "checkpoints"):
        kept = found.manifest
        assert kept is not None
        assert kept.digest == digests[kept.version] == read_state(found.path, kept).digest()


def test_without_an_interval_nothing_is_saved(here: Path) -> None:
    trainer = small_trainer(save_interval=0)
    trainer.on_step_end = lambda state: trainer.stop() if state.step == 3 else None
    trainer.train()
    assert list(here.iterdir()) == []


def test_saving_changes_no_bit() -> None:
    plain, saving = gpt_trainer(Alone(), save_interval=0), gpt_trainer(Alone(), save_interval=1)
    plain.train()
    saving.train()
    assert equal(in_full(plain), in_full(saving))


def test_training_goes_on_while_a_checkpoint_is_written(here: Path) -> None:
    """A disk that takes until the training has ended: the bytes are those of the version that was due, later ones are
    left out, and the end waits for it."""
    trainer = small_trainer(max_steps=6, save_interval=2)
    saving, ended, versions = trainer._loop.saving, threading.Event(), []
    saving._saver._passing = lambda moment: None if moment != "piece" else _waited(ended)
    digests: dict[int, str] = {}

    def note(state: TrainingState) -> None:
        digests[state.step] = trainer.digest()
        versions.append(state.step)
        if state.step == 6:
            ended.set()

    trainer.on_step_end = note
    trainer.train()
    assert versions == [1, 2, 3, 4, 5, 6] and saved(here / "checkpoints")[0] == 2
    manifest = read_manifest(here / "checkpoints" / "step-2")
    assert manifest.digest == digests[2]


def _waited(event: threading.Event) -> None:
    assert event.wait(30)


def test_a_stop_saves_the_version_that_it_stopped_at(here: Path) -> None:
    """And from there the training goes on as if nobody had stopped it."""
    whole = small_trainer(save_interval=0)
    whole.train()
    trainer = small_trainer(save_interval=4)
    trainer.on_step_end = lambda state: trainer.stop() if state.step == 2 else None
    trainer.train()
    assert trainer.version == 3 and saved(here / "checkpoints") == [3]
    again = small_trainer(save_interval=4)
    again.restore("checkpoints")
    again.train()
    assert state_digest(in_full(again)) == state_digest(in_full(whole)) and again.state() == whole.state()


def test_a_checkpoint_is_told_when_it_is_whole(here: Path) -> None:
    """CHECKPOINT, in the training's thread: path, version and digest."""
    heard: list[CheckpointWritten] = []
    threads = set()
    trainer = small_trainer(save_interval=3)

    def hear(written: CheckpointWritten) -> None:
        assert newest_whole(written.path.parent).path is not None
        threads.add(threading.current_thread())
        heard.append(written)

    trainer.register_callback("checkpoint", hear)
    patient(trainer)
    trainer.train()
    trainer.checkpoint("end")
    assert [(each.path.name, each.version) for each in heard] == [("step-3", 3), ("step-6", 6), ("end", 6)]
    assert heard[-1].digest == trainer.digest() and threads == {threading.current_thread()}


def test_a_callback_may_ask_for_a_checkpoint(here: Path) -> None:
    """It is of the version that stands; a name that can't be is refused, and the version stays whole."""
    trainer = small_trainer(save_interval=0)
    digests = {}

    def best(state: TrainingState) -> None:
        if state.step in (2, 4):
            digests[state.step] = trainer.digest()
            trainer.checkpoint("best")

    trainer.on_step_end = best
    trainer.train()
    manifest = read_manifest(here / "checkpoints" / "best")
    assert manifest.version == 4 and manifest.digest == digests[4]
    with pytest.raises(ConfigError, match="a checkpoint's name"):
        trainer.checkpoint("step-9")


def test_another_thread_may_not_ask_in_the_middle_of_a_step() -> None:
    """It would see half an update."""
    trainer, refused = small_trainer(save_interval=0), []

    def ask() -> None:
        try:
            trainer.checkpoint()
        except StateError as error:
            refused.append(str(error))

    def elsewhere(_: TrainingState) -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    trainer.on_step_end = elsewhere
    trainer.train_steps(1)
    assert len(refused) == 1 and "from another thread" in refused[0]


def test_on_a_tree_control_says_when() -> None:
    class Tree(Alone):
        alone = False

    trainer = small_trainer(Tree(), save_interval=2)
    for call in (trainer.checkpoint, lambda: trainer.restore("checkpoints")):
        with pytest.raises(StateError, match="on a tree control says"):
            call()


# ------------------------------------------------------------ disks that fail


def failing(call: str, trouble: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(trouble, os.strerror(trouble))

    return fail


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: a full disk, as far as a writer can tell."""
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("trouble", ["full", "EIO on fsync", "EROFS on rename", "ENOSPC on mkdir"])
def test_a_disk_that_fails_costs_a_checkpoint_and_one_warning(
    trouble: str, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on to the bits of one without saves; the older checkpoint stays, nothing else is left, and when
    the disk is healthy again the next save succeeds."""
    whole, trainer = (gpt_trainer(Alone(), max_steps=10, save_interval=0) for _ in range(2))
    whole.train()
    trainer = gpt_trainer(Alone(), max_steps=10, save_interval=2)
    saving = trainer._loop.saving

    @contextmanager
    def broken() -> Iterator[None]:
        if trouble == "full":
            with file_size(1000):
                yield
            return
        with monkeypatch.context() as patch:
            target, name, number = {
                "EIO on fsync": (os, "fsync", errno.EIO),
                "EROFS on rename": (Path, "replace", errno.EROFS),
                "ENOSPC on mkdir": (Path, "mkdir", errno.ENOSPC),
            }[trouble]
            patch.setattr(target, name, failing(name, number))
            yield

    stack: list[object] = []

    def boundaries(state: TrainingState) -> None:
        saving.flush()
        if state.step in (3, 7):
            context = broken() if state.step == 3 else stack.pop()
            stack.append(context)
            context.__enter__() if state.step == 3 else context.__exit__(None, None, None)  # type: ignore[attr-defined]
        if state.step == 7:
            assert saved(here / "checkpoints") == [2]
            left = {path.name for path in here.rglob("*") if path.is_file()}
            assert len(left) == 2 and "manifest.json" in left

    trainer.on_step_end = boundaries
    with caplog.at_level(logging.INFO, "lightwatch"):
        trainer.train()
    assert equal(in_full(trainer), in_full(whole))
    assert saved(here / "checkpoints") == [2, 8, 10]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "step-4 is given up, training goes on" in warnings[0] and "[LW608]" in warnings[0]
    assert "checkpoints can be written again" in caplog.text


def test_a_folder_that_can_not_be_one_costs_only_checkpoints(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "checkpoints").write_text("a file")
    trainer = small_trainer(save_interval=2)
    trainer.train()
    assert trainer.version == 6 and "is given up, training goes on" in caplog.text
    with pytest.raises(StateError, match=r"step-6 can't be written: .*\[LW604\]"):
        trainer.checkpoint()
