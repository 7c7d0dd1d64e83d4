"""Each field of TrainingConfig does something: changing it changes what can be seen from outside."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightwatch.arithmetic import settle_arithmetic
from lightwatch.config import TrainingConfig
from lightwatch.errors import ConfigError, NonFiniteError
from lightwatch.fingerprint import NEED_NOT_BE_EQUAL, fingerprint_of
from lightwatch.metrics import StepReport
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, small_trainer


@cache
def run(**settings: object) -> tuple[Trainer, list[StepReport]]:
    """Five steps of a tiny GPT with these settings, and what was reported. Made once for all tests here: only read."""
    reports: list[StepReport] = []
    trainer = gpt_trainer(Alone(reports.append), **settings)
    trainer.train()
    return trainer, reports


def digest(**settings: object) -> str:
    return run(**settings)[0].digest()


def another_digest(name: str, value: object) -> None:
    """The weights come out otherwise, and a fingerprint keeps two such spheres apart."""
    assert digest(**{name: value}) != digest()
    assert fields(**{name: value})[f"config.{name}"] != fields()[f"config.{name}"]


def fields(**settings: object) -> dict[str, str]:
    trainer = gpt_trainer(Alone(), **settings)
    return fingerprint_of(trainer._replica, trainer.config, trainer.data, trainer.eval_data)


def learning_rate() -> None:
    another_digest("learning_rate", 4e-3)
    assert run(learning_rate=4e-3, warmup_steps=5)[0].state().lr == 4e-3


def weight_decay() -> None:
    """It alone shrinks: with a tiny rate and a large decay, weights are smaller by rate times decay."""
    another_digest("weight_decay", 0.5)
    trainer = gpt_trainer(Alone(), weight_decay=1000.0, learning_rate=1e-6, warmup_steps=1, max_steps=1)
    weight = trainer.model.get_parameter("head.weight").detach()
    before = weight.clone()
    trainer.train()
    assert float((before - weight - 1e-3 * before).abs().max()) < 1.1e-6 < float((1e-3 * before).abs().max())


def max_grad_norm() -> None:
    """0 and None: off. grad_norm is told before clipping, so at the first step it is the same."""
    assert len({digest(), digest(max_grad_norm=0.01), digest(max_grad_norm=0)}) >= 2
    assert digest(max_grad_norm=None) == digest(max_grad_norm=0.0) == digest(max_grad_norm=1e9)
    tight = run(max_grad_norm=0.01)[1]
    assert tight[1].grad_norm == run()[1][1].grad_norm != 0.01


def warmup_steps() -> None:
    another_digest("warmup_steps", 4)
    rates = [report.learning_rate for report in run(warmup_steps=4)[1][1:]]
    assert rates[:4] == [3e-3 * k / 4 for k in range(1, 5)]


def max_steps() -> None:
    assert run(max_steps=3)[0].version == 3 and run(max_steps=4)[0].version == 4


def log_interval() -> None:
    counts = []
    for interval in (1, 2):
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign, assignment]
        logger = logging.getLogger("lightwatch")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            gpt_trainer(Alone(), log_interval=interval).train()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        counts.append(len([r for r in records if r.getMessage().startswith("step ")]))
    assert counts == [5, 2]


def eval_interval() -> None:
    """Where an evaluation was made; which weights come out is none of its business."""
    evaluated = {
        every: [r.version for r in run(eval_interval=every)[1] if r.eval_loss is not None] for every in (0, 1, 2)
    }
    assert evaluated == {0: [], 1: [2, 3, 4, 5], 2: [3, 5]}


def micro_batches() -> None:
    another_digest("micro_batches", 3)
    assert {r.samples for r in run(micro_batches=3)[1][1:]} == {6}


def batch_size() -> None:
    another_digest("batch_size", 3)
    assert {r.samples for r in run(batch_size=3, max_steps=3)[1][1:]} == {15}


def seed() -> None:
    another_digest("seed", 2)


def reduction() -> None:
    another_digest("reduction", "float")
    assert run(reduction="float")[0]._replica.exponents is None


def autocast() -> None:
    """Other bits, in the evaluation too, and the weights stay float32."""
    another_digest("autocast", "bf16")
    assert {p.dtype for p in run(autocast="bf16")[0].model.parameters()} == {torch.float32}


def device() -> None:
    """Where there is no GPU: "auto" is the CPU, with its bits, and "cuda" a sentence."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here: tests/test_gpu.py has the law")
    assert run(device="auto")[0].digest() == run()[0].digest()
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        run(device="cuda")


def verify_interval() -> None:
    """Where a digest is taken; v0 and the last version have one always."""
    for every, expected in ((0, [0, 5]), (1, [0, 1, 2, 3, 4, 5]), (3, [0, 3, 5])):
        assert [r.version for r in run(verify_interval=every)[1] if r.digest] == expected


def threads() -> None:
    try:
        gpt_trainer(Alone(), threads=2)
        assert torch.get_num_threads() == 2
        gpt_trainer(Alone())
        assert torch.get_num_threads() == 1
    finally:
        settle_arithmetic(1)
    assert fields(threads=2)["threads"] == "2" and fields()["threads"] == "1"


def label_smoothing() -> None:
    """Of the loss trained on; what is evaluated, and told as bits per byte, is the loss of the targets themselves."""
    another_digest("label_smoothing", 0.2)
    still = {"learning_rate": 0.0, "max_steps": 1}
    smooth, plain = run(label_smoothing=0.2, **still)[0], run(**still)[0]
    assert smooth.eval_loss == plain.eval_loss is not None
    assert smooth.state().loss != plain.state().loss


def headroom_bits() -> None:
    """One bit more of headroom is one less in each exponent, measured on the same gradients."""
    more, less = run(headroom_bits=8, max_steps=1)[0], run(headroom_bits=5, max_steps=1)[0]
    assert more._replica.exponents is not None and less._replica.exponents is not None
    assert [a - b for a, b in zip(less._replica.exponents, more._replica.exponents, strict=True)] == [3] * len(
        more._replica.exponents
    )
    assert digest(headroom_bits=12) != digest(headroom_bits=1)


def eval_batches() -> None:
    """How much of the evaluation data is looked at: 7 samples in batches of 2."""
    weights = {}
    for most in (1, 3, 32):
        sync = Alone()
        gpt_trainer(sync, eval_batches=most).train()
        weights[most] = sync.closing.eval_weight if sync.closing else 0
    assert weights == {1: 2 * 16, 3: 6 * 16, 32: 7 * 16}


def nan_policy() -> None:
    """A loss that is NaN ends the training, or is a version with the weights of the one before."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) * math.nan

    with pytest.raises(NonFiniteError):
        small_trainer(loss_fn=loss).train()
    trainer = small_trainer(loss_fn=loss, nan_policy="skip")
    before = trainer.digest()
    assert trainer.train().step == 6 and trainer.digest() == before


def checkpoints_of(**settings: object) -> set[str]:
    """What five steps leave in a folder of their own, each of which waits for what it saved."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = gpt_trainer(Alone(), **{"checkpoint_dir": str(Path(folder, "c")), "save_interval": 1, **settings})
        saving = trainer._loop.saving
        trainer.on_step_end = lambda _: saving._saver.flush()
        with chdir(folder):
            trainer.train()
        return {str(path.parent.relative_to(folder)) for path in Path(folder).rglob("manifest.json")}


def save_interval() -> None:
    assert checkpoints_of(save_interval=2) == {"c/step-2", "c/step-4"} and checkpoints_of(save_interval=0) == set()


def checkpoint_dir() -> None:
    assert checkpoints_of(checkpoint_dir="a/b", save_interval=4) == {"a/b/step-4"}


def max_checkpoints() -> None:
    assert checkpoints_of(max_checkpoints=1) == {"c/step-5"} and len(checkpoints_of(max_checkpoints=0)) == 5


ENTRIES: dict[str, Callable[[], None]] = {
    entry.__name__: entry
    for entry in (
        learning_rate, weight_decay, max_grad_norm, warmup_steps, max_steps, log_interval, eval_interval,
        micro_batches, batch_size, seed, reduction, verify_interval, threads, label_smoothing, headroom_bits,
        eval_batches, nan_policy, save_interval, checkpoint_dir, max_checkpoints,
        device, autocast,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", TrainingConfig.names())
def test_changing_a_field_changes_what_is_done(name: str) -> None:
    """Walks all fields: one without an entry fails."""
    ENTRIES[name]()


def test_no_entry_outlives_its_field() -> None:
    assert set(ENTRIES) == set(TrainingConfig.names())


OTHER: dict[str, object] = {
    "learning_rate": 0.5, "weight_decay": 0.5, "max_grad_norm": 0.5, "warmup_steps": 7, "max_steps": 77,
    "log_interval": 7, "eval_interval": 7, "save_interval": 7, "checkpoint_dir": "there", "max_checkpoints": 7,
    "micro_batches": 7, "batch_size": 7, "seed": 7, "reduction": "float", "verify_interval": 7, "label_smoothing": 0.5,
    "headroom_bits": 7, "eval_batches": 7, "nan_policy": "skip",
    "device": "auto", "autocast": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TrainingConfig.names() if name != "threads"])
def test_spheres_of_unequal_settings_are_told_apart_unless_no_bit_hangs_on_it(name: str) -> None:
    """The fingerprint's field of that name, and no other setting's, differs; four don't matter."""
    ours, theirs = fields(), fields(**{name: OTHER[name]})
    differing = {key for key in ours if ours[key] != theirs[key]} - {"reduction"}
    assert differing == (set() if name in NEED_NOT_BE_EQUAL else {f"config.{name}"})


# ------------------------------------------------------------ the rest of a fingerprint


@pytest.fixture
def ours() -> Iterator[dict[str, str]]:
    yield fields()


def test_a_fingerprint_is_the_same_for_the_same_and_draws_no_number(ours: dict[str, str]) -> None:
    trainer = gpt_trainer(Alone())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert fingerprint_of(trainer._replica, trainer.config, trainer.data, trainer.eval_data) == ours
    assert torch.equal(torch.rand(3), expected)


def test_other_data_another_model_or_another_environment_is_seen(
    ours: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each changes the field that names it, and only that one."""
    trainer = gpt_trainer(Alone())
    replica, config, data, evaluation = trainer._replica, trainer.config, trainer.data, trainer.eval_data

    def differing(found: dict[str, str]) -> set[str]:
        return {key for key in ours if found[key] != ours[key]}

    other = gpt_trainer(Alone())
    other.data.dataset[0][0][0] += 1
    assert differing(fingerprint_of(replica, config, other.data, evaluation)) == {"data"}
    assert differing(fingerprint_of(replica, config, data, None)) == {"eval_data"}
    small = Trainer(torch.nn.Embedding(256, 256), byte_pairs(50), config)
    assert differing(fingerprint_of(small._replica, config, data, evaluation)) == {"layout"}
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert differing(fingerprint_of(replica, config, data, evaluation)) == {"environment"}


@pytest.mark.parametrize("name", ["OMP_DYNAMIC", "MKL_DYNAMIC"])
@pytest.mark.parametrize("value", ["true", "TRUE", "1"])
def test_threads_that_follow_the_load_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits would follow the load too; false is fine."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is set to true"):
        settle_arithmetic(1)
    monkeypatch.setenv(name, "false")
    settle_arithmetic(1)


def test_arithmetic_is_settled_for_the_process() -> None:
    """Threads, deterministic kernels that raise rather than warn, no flushing of denormals."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(2)
    torch._C._set_deterministic_algorithms(False, warn_only=False)
    settle_arithmetic(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert float(torch.tensor(1e-40) * 0.5) > 0
