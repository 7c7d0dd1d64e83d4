"""What needs a GPU to be seen. Nobody has run these yet: no GPU was at hand when they were written.

`pytest -m gpu -rs` runs them alone, and says why those were skipped that were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightwatch.config import GPTConfig, TrainingConfig
from lightwatch.model import GPT
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.cli.commands import lightwatch, summary_of, tiny_project
from tests.models import byte_pairs, gpt_trainer

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPUS, reason="no GPU here: torch.cuda.is_available() says no"),
    pytest.mark.timeout(300),
]


def on_gpu(**settings: object) -> Trainer:
    trainer = gpt_trainer(Alone(), device="cuda", **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize("settings", [{}, {"autocast": "bf16"}, {"reduction": "float"}], ids=str)
def test_one_sphere_on_a_gpu_gives_the_same_bits_again(settings: dict[str, object]) -> None:
    """And about the loss of the CPU, whose gradients have other last bits."""
    first, second = on_gpu(**settings), on_gpu(**settings)
    assert {parameter.device.type for parameter in first.model.parameters()} == {"cuda"}
    assert first.digest() == second.digest() and first.state() == second.state()
    reference = gpt_trainer(Alone(), **settings)
    assert first.state().loss == pytest.approx(reference.train().loss, rel=1e-2)
    assert first.fingerprint["device"] != reference.fingerprint["device"]


def test_exact_sums_on_a_gpu_are_as_near_to_float_sums_as_on_the_cpu() -> None:
    assert on_gpu(reduction="exact").state().loss == pytest.approx(on_gpu(reduction="float").state().loss, rel=1e-4)


def test_dropout_on_a_gpu_follows_the_micro_batch_and_not_what_was_drawn_before() -> None:
    """Numbers that somebody else draws between two trainings, or not: the same bits."""
    digests = set()
    for drawn in (0, 7):
        torch.rand(drawn, device="cuda")
        torch.manual_seed(7)
        model = GPT(GPTConfig(layers=2, heads=2, width=16, context=16, dropout=0.5))
        config = TrainingConfig(max_steps=3, micro_batches=2, batch_size=2, eval_interval=0, seed=1, device="cuda")
        trainer = Trainer(model, byte_pairs(50), config)
        trainer.train()
        digests.add(trainer.digest())
    assert len(digests) == 1


def test_a_convolution_with_batch_norm_on_a_gpu_gives_the_same_bits_again() -> None:
    """cuDNN's kernels, and buffers that go to the CPU and back; TF32 and the search for the fastest kernel are off."""
    digests = set()
    for _ in range(2):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
        pairs = [(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(i)), i % 5) for i in range(40)]
        config = TrainingConfig(max_steps=4, micro_batches=2, batch_size=4, eval_interval=0, device="cuda")
        trainer = Trainer(model, pairs, config)
        trainer.train()
        digests.add(trainer.digest())
    assert len(digests) == 1


def test_a_training_on_a_gpu_goes_on_from_its_checkpoint_with_the_same_bits(here: Path) -> None:
    """What was saved went to the disk by the CPU, and comes back."""
    whole = on_gpu(max_steps=6)
    before, after = (gpt_trainer(Alone(), device="cuda", max_steps=6) for _ in range(2))
    before.train_steps(3)
    after.restore(before.checkpoint("half"))
    after.train()
    assert after.digest() == whole.digest()
    assert list(here.rglob("half"))


def trained(folder: Path, *flags: str) -> dict[str, Any]:
    folder.mkdir()
    run = lightwatch("train", *tiny_project(folder), "--device", "cuda", *flags, folder=folder, timeout_s=120)
    assert run.returncode == 0, run.stderr
    return summary_of(next((folder / "runs").iterdir()))


@pytest.mark.cluster
@pytest.mark.parametrize("tree", ["2", "a:2,b:1"])
def test_spheres_that_share_one_gpu_have_the_bits_of_one_process(
    tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gloo, for NCCL can't have two on one GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    alone, together = trained(tmp_path / "1", "--tree", "1"), trained(tmp_path / "n", "--tree", tree)
    assert together["digest"] == alone["digest"]


@pytest.mark.cluster
@pytest.mark.skipif(GPUS < 2, reason=f"NCCL needs a GPU for each of two spheres, here are {GPUS}")
def test_spheres_with_a_gpu_each_have_the_bits_of_one_process(tmp_path: Path) -> None:
    """Over NCCL."""
    alone, together = trained(tmp_path / "1", "--tree", "1"), trained(tmp_path / "n", "--tree", "2")
    assert together["digest"] == alone["digest"]
