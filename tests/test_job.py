"""The main job: a GPT on text, all of it from the run's config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightwatch import config, job
from lightwatch.checkpoint import load_model
from lightwatch.errors import DataError
from lightwatch.flat import digest_of
from lightwatch.model import GPT, generate
from lightwatch.sync import Alone
from tests.models import mlp


def run_config(path: Path, **training: object) -> config.RunConfig:
    return config.merge(
        config.RunConfig(),
        training={"max_steps": 2, "micro_batches": 2, "batch_size": 2, "seed": 3, **training},
        model={"layers": 1, "heads": 2, "width": 16, "context": 8},
        data={"path": str(path), "sequence_length": 8},
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_bytes(bytes(range(32, 127)) * 40)
    return file


def test_a_job_is_what_its_config_says(text: Path) -> None:
    """Model, data, held-out data, seed and seam; built twice it is the same, whatever was drawn before."""
    sync = Alone()
    trainer = job.build(run_config(text), sync)
    torch.rand(7)
    again, other = job.build(run_config(text)), job.build(run_config(text, seed=4))
    assert isinstance(trainer.model, GPT) and trainer.model.config.width == 16 and trainer.sync is sync
    assert trainer.config == run_config(text).training
    assert trainer.digest() == again.digest() != other.digest()
    assert trainer.data.length == 95 * 40 * 95 // 100 // 8
    assert trainer.eval_data is not None and trainer.eval_data.length > 0
    assert trainer.data.fingerprint == again.data.fingerprint != trainer.eval_data.fingerprint
    trainer.train()
    again.train()
    assert trainer.version == 2 and trainer.digest() == again.digest() and trainer.eval_loss == again.eval_loss


def test_text_too_short_to_hold_any_out_is_trained_without_an_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_bytes(b"0123456789" * 3)
    trainer = job.build(run_config(file))
    assert trainer.eval_data is None
    trainer.train()
    assert trainer.eval_loss is None
    with pytest.raises(DataError):
        job.build(run_config(tmp_path / "nowhere.txt"))


def test_data_that_the_config_does_not_mean_are_not_trained_on(text: Path, tmp_path: Path) -> None:
    """Where it names their fingerprint: the same bytes will do under another name, a single other byte will not."""
    fingerprint = job.build(run_config(text)).data.fingerprint
    named = config.merge(run_config(text), data={"fingerprint": fingerprint})
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_bytes(text.read_bytes())
    other.write_bytes(text.read_bytes()[:-1] + b"!")
    assert job.build(config.merge(named, data={"path": str(copy)})).data.fingerprint == fingerprint
    with pytest.raises(DataError, match=rf"other\.txt' holds other data.*expected .*{fingerprint[:12]}.*LW106"):
        job.build(config.merge(named, data={"path": str(other)}))


def test_what_is_left_is_the_model_and_what_it_says(text: Path, tmp_path: Path) -> None:
    """The file gives the same digest in a fresh model; the sample follows from the seed; no sample without a GPT."""
    trainer = job.build(run_config(text))
    trainer.train()
    folder = tmp_path / "run"
    folder.mkdir()
    job.finish(trainer.model, folder, seed=3)
    assert sorted(file.name for file in folder.iterdir()) == ["model.safetensors", "sample.txt"]
    fresh = GPT(run_config(text).model)
    load_model(fresh, folder / "model.safetensors")
    assert digest_of(fresh) == trainer.digest()
    sample = (folder / "sample.txt").read_bytes()
    assert sample == job.PROMPT + generate(fresh, job.PROMPT, job.SAMPLE_BYTES, seed=3)
    other = tmp_path / "other"
    other.mkdir()
    job.finish(mlp(), other, seed=3)
    assert [file.name for file in other.iterdir()] == ["model.safetensors"]
