"""Checkpoints as plain functions: for a loop of one's own, with torch alone."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import lightwatch
from lightwatch.checkpoints import checkpoints_in
from lightwatch.errors import ConfigError, DataError
from lightwatch.flat import digest_of
from lightwatch.model import GPT
from lightwatch.plain import export_checkpoint, load_checkpoint, restore_checkpoint, save_checkpoint
from lightwatch.sync import Alone
from tests.models import gpt_trainer, mlp, regression_pairs, tiny_gpt


class Loop:
    """Plain torch: a model, an optimizer with momentum, a scheduler, dropout."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 13), nn.BatchNorm1d(13), nn.Dropout(0.3), nn.Linear(13, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, foreach=False)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)

    def steps(self, count: int) -> None:
        x, y = (torch.stack(side) for side in zip(*regression_pairs(40), strict=True))
        for _ in range(count):
            self.optimizer.zero_grad()
            nn.functional.mse_loss(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()


def test_ten_more_steps_of_ones_own_loop_are_those_that_would_have_come(tmp_path: Path) -> None:
    """With the optimizer, the schedule and torch's generator."""
    one, other = Loop(1), Loop(2)
    one.steps(4)
    extra = {"schedule": one.schedule.state_dict(), "rng": torch.get_rng_state(), "notes": ["ü", 1.5, None, (1, 2)]}
    assert save_checkpoint(tmp_path / "step-4", one.model, one.optimizer, version=4, extra=extra) == tmp_path / "step-4"
    one.steps(10)
    kept = restore_checkpoint(tmp_path, other.model, other.optimizer)
    assert kept.version == 4 and kept.path == tmp_path / "step-4" and kept.extra["notes"] == ["ü", 1.5, None, (1, 2)]
    other.schedule.load_state_dict(kept.extra["schedule"])
    torch.set_rng_state(kept.extra["rng"])
    other.steps(10)
    assert digest_of(other.model) == digest_of(one.model)
    assert other.schedule.get_last_lr() == one.schedule.get_last_lr()


def test_the_functions_are_lightwatchs_own() -> None:
    for name in ("save_checkpoint", "load_checkpoint", "restore_checkpoint", "export_checkpoint"):
        assert getattr(lightwatch, name) is globals()[name]


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    """State dicts, by the names of torch; tied weights once."""
    model = GPT(lightwatch.GPTConfig(layers=1, heads=2, width=8, context=4, tied=True))
    save_checkpoint(tmp_path / "a", model, version=7)
    kept = load_checkpoint(tmp_path / "a")
    assert (kept.version, kept.optimizer, kept.extra) == (7, None, None)
    assert set(kept.model) == {name for name, _ in model.named_parameters()}
    assert kept.manifest.digest == digest_of(model)
    bare = GPT(lightwatch.GPTConfig(layers=1, heads=2, width=8, context=4, tied=True))
    bare.load_state_dict(kept.model, strict=False)
    assert digest_of(bare) == digest_of(model)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """Another shape, a name too many or too few, an optimizer that was not saved or is another."""
    model = mlp()
    save_checkpoint(tmp_path / "plain", model)
    save_checkpoint(tmp_path / "adam", model, Loop(1).optimizer)
    wide = nn.Sequential(nn.Linear(6, 14), nn.Tanh(), nn.Linear(14, 3))
    more = nn.Sequential(nn.Linear(6, 13), nn.Tanh(), nn.Linear(13, 3), nn.Linear(3, 3))
    for other, optimizer, path, sentence in (
        (wide, None, "plain", r"0\.bias is float32 \(13,\) in it and float32 \(14,\) in the model"),
        (more, None, "plain", r"3\.bias is not there in it and float32 \(3,\) in the model"),
        (mlp(5), torch.optim.SGD, "plain", "the optimizer's state was not saved"),
        (mlp(5), torch.optim.SGD, "adam", "the optimizer does not take what was saved"),
    ):
        before = digest_of(other)
        given = None if optimizer is None else optimizer([next(other.parameters())], lr=0.1)
        with pytest.raises(DataError, match=sentence):
            restore_checkpoint(tmp_path / path, other, given)
        assert digest_of(other) == before


def test_not_strict_takes_what_fits_and_names_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    save_checkpoint(tmp_path / "plain", model)
    first, last = nn.Linear(6, 13), nn.Linear(13, 4)
    other, before = nn.Sequential(first, nn.Tanh(), last), last.weight.clone()
    with caplog.at_level(logging.WARNING, "lightwatch"):
        restore_checkpoint(tmp_path / "plain", other, torch.optim.SGD(other.parameters(), lr=0.1), strict=False)
    taken = model.state_dict()
    assert torch.equal(first.weight, taken["0.weight"]) and torch.equal(first.bias, taken["0.bias"])
    assert torch.equal(last.weight, before)
    for what in ("2.weight is float32 (3, 13) in it and float32 (4, 13) in the model", "2.bias", "optimizer's state"):
        assert what in caplog.text
    assert "0.weight" not in caplog.text


def test_a_trainers_checkpoint_gives_its_weights_to_a_bare_model(tmp_path: Path) -> None:
    trainer = gpt_trainer(Alone(), save_interval=0, checkpoint_dir=str(tmp_path))
    trainer.train_steps(2)
    bare = tiny_gpt()
    restore_checkpoint(trainer.checkpoint(), bare)
    assert digest_of(bare) == trainer.digest()


def test_a_second_save_replaces_the_first_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the first is left; if the second can't be written, the first is as it was."""
    folder = tmp_path / "last"
    save_checkpoint(folder, mlp(1), version=1)
    save_checkpoint(folder, mlp(2), version=2)
    assert len(list(folder.iterdir())) == 2 and load_checkpoint(folder).version == 2

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(folder, mlp(3), version=3)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / "new", mlp(3), version=3)
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 2 and load_checkpoint(folder).manifest.digest == digest_of(mlp(2))
    assert [found.path for found in checkpoints_in(tmp_path)] == [folder] and not (tmp_path / "new").exists()


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extra is a object"):
        save_checkpoint(tmp_path / "a", mlp(), extra=object())
    assert list(tmp_path.iterdir()) == []


def test_other_tools_read_what_is_exported(tmp_path: Path) -> None:
    """A bare torch model takes the file's tensors, strictly; the config is JSON; nothing is written over."""
    trainer = gpt_trainer(Alone(), save_interval=0, checkpoint_dir=str(tmp_path / "c"))
    trainer.train_steps(2)
    trainer.checkpoint()
    file = export_checkpoint(tmp_path / "c", tmp_path / "out")
    assert file == tmp_path / "out" / "model.safetensors"
    bare = tiny_gpt()
    with safe_open(file, framework="pt") as opened:
        bare.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()}, strict=True)
    assert digest_of(bare) == trainer.digest()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["version"], config["digest"]) == (2, trainer.digest())
    assert config["training"]["seed"] == 1
    with pytest.raises(ConfigError, match="is there already"):
        export_checkpoint(tmp_path / "c", tmp_path / "out")
