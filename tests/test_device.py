"""Where a sphere computes: pure rules, without a GPU; what needs one is in test_gpu."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightwatch import device
from lightwatch.arithmetic import settle_arithmetic
from lightwatch.config import TrainingConfig
from lightwatch.device import CPU, device_for, identity_of, name_of, place
from lightwatch.errors import ConfigError
from lightwatch.fingerprint import fingerprint_of
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, regression_pairs


def cuda(number: int) -> torch.device:
    return torch.device("cuda", number)


@given(st.integers(0, 100), st.integers(1, 16))
def test_spheres_of_a_machine_share_its_gpus_in_turn(local_rank: int, gpus: int) -> None:
    """As many on each as on any other, give or take one; whether a GPU must be there or may be."""
    for wanted in ("cuda", "auto"):
        assert device_for(wanted, CPU, local_rank, gpus) == cuda(local_rank % gpus)


@given(st.sampled_from(["cuda", "auto"]), st.integers(0, 100), st.integers(1, 16))
def test_a_model_that_lies_on_a_gpu_stays_there(wanted: str, local_rank: int, gpus: int) -> None:
    """Its script has chosen; the optimizer that it made may know the GPU too."""
    for number in range(gpus):
        assert device_for(wanted, cuda(number), local_rank, gpus) == cuda(number)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_a_sentence() -> None:
    assert device_for("auto", CPU, 3, 0) == CPU
    with pytest.raises(ConfigError, match=r'device = "cuda", and torch sees no GPU here.*\[LW213\]'):
        device_for("cuda", CPU, 0, 0)


def test_a_gpu_is_never_used_unless_the_config_says_so() -> None:
    """With GPUs at hand the default is the CPU; a model that lies on one is refused, and not moved in silence."""
    assert TrainingConfig().device == "cpu"
    assert device_for("cpu", CPU, 0, 8) == CPU
    with pytest.raises(ConfigError, match=r"the model lies on cuda:1.*\[LW214\]"):
        device_for("cpu", cuda(1), 0, 8)


def test_the_trainer_brings_the_model_to_its_spheres_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """By config and local rank: the seventh of a machine with four GPUs goes to the third."""
    moved: list[object] = []

    class Movable(nn.Linear):
        def to(self, *where: object, **_more: object) -> Movable:
            moved.extend(where)
            return self

    monkeypatch.setattr(device, "gpus", lambda: 4)
    sync = Alone()
    sync.local_rank = 6
    for wanted in ("cpu", "cuda", "auto"):
        Trainer(Movable(6, 3), regression_pairs(40), TrainingConfig(device=wanted), sync=sync)
    assert moved == [cuda(2), cuda(2)]


def test_the_tree_is_told_where_the_trainer_computes() -> None:
    """Before it is asked for a generation: the groups depend on it."""
    sync, told = Alone(), []
    sync.device = cuda(7)
    begin = sync.begin
    sync.begin = lambda standing: (told.append(sync.device), begin(standing))[1]  # type: ignore[func-returns-value,method-assign]
    gpt_trainer(sync, max_steps=1).train()
    assert told == [CPU]


def test_a_model_in_several_places_is_left_to_who_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence names them all."""
    monkeypatch.setattr(device, "gpus", lambda: 4)
    apart = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    place(apart, "cuda", 0)
    assert [parameter.device.type for parameter in apart.parameters()] == ["cpu", "cpu", "meta", "meta"]


def test_on_the_cpu_nobody_asks_cuda_anything() -> None:
    """A whole training, in a process where the first question would be an error: asking takes time, and once CUDA has
    begun a process can't be forked."""
    program = (
        "import torch\n"
        "def refuse(*_): raise AssertionError('CUDA was asked')\n"
        "for name in ('is_available', 'device_count', '_lazy_init', 'get_device_properties'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        "from tests.models import gpt_trainer\n"
        "from lightwatch.sync import Alone\n"
        "gpt_trainer(Alone(), max_steps=1).train()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr


def test_the_fingerprint_says_what_computes() -> None:
    """On the CPU that is all there is to say; nobody there has a GPU that NCCL could reach."""
    trainer = gpt_trainer(Alone())
    told = fingerprint_of(trainer._replica, trainer.config, trainer.data, trainer.eval_data)
    assert (told["device"], told["config.device"]) == ("cpu", "cpu")
    assert (name_of(CPU), identity_of(CPU)) == ("cpu", "")


def test_a_slice_of_a_gpu_has_another_name_than_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits follow the number of processors: with the same product's name, so must the fingerprint."""

    class Properties:
        name, major, minor, uuid = "NVIDIA H200", 9, 0, "one"
        multi_processor_count = 132

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Properties)
    whole = name_of(cuda(0))
    assert "NVIDIA H200 sm_90 of 132" in whole
    monkeypatch.setattr(Properties, "multi_processor_count", 60)
    assert name_of(cuda(0)) != whole
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert identity_of(cuda(0)) == ""
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert identity_of(cuda(0)) == "one"


def test_products_on_a_gpu_are_of_whole_float32_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What exact mode needs there the trainer sets, before anything is computed; the user's own workspace stays."""
    for given_by_user, kept in ((None, ":4096:8"), (":16:8", ":16:8")):
        if given_by_user is None:
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        else:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given_by_user)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        settle_arithmetic(1)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == kept
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # else attention's backward stays as it is
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.benchmark
        assert not torch.backends.cuda.matmul.allow_tf32
