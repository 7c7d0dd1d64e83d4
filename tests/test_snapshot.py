"""A state that was taken is the state that was given: the next step's bits are the donor's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightwatch.checkpoint import load_snapshot, save_snapshot
from lightwatch.config import TrainingConfig
from lightwatch.errors import ConfigError, DataError
from lightwatch.flat import bits_of, digest_of
from lightwatch.optim import AdamW
from lightwatch.snapshot import Snapshot, apart, together
from lightwatch.sync import Alone, How, Position, Standing, Start
from lightwatch.trainer import Trainer
from tests.models import gpt_trainer, mlp, regression_pairs, small_trainer


class Joining(Alone):
    """Comes late, alone: it takes the state that it is given."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def begin(self, standing: Standing) -> Start:
        position = Position(*self.snapshot.facts["position"])
        return Start(position, How.FETCH, digest=self.snapshot.digest())

    def fetch(self) -> Snapshot:
        return self.snapshot


def sent(trainer: Trainer) -> Snapshot:
    """The trainer's state, as it comes out at the other end of a wire: rows after rows, and JSON."""
    snapshot = trainer._stepper.snapshot()
    tensors = {name: tensor.contiguous().clone() for name, tensor in snapshot.tensors.items()}
    return Snapshot(tensors, json.loads(json.dumps(snapshot.facts)))


class Odd(nn.Module):
    """Tied weights, a frozen one, channels last, BatchNorm, a buffer that no state_dict holds, one that never fires."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.never = nn.Linear(16, 2)
        self.last = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls: Tensor
        self.calls += 1
        x = self.norm(self.convolution(x)).flatten(1)
        x = self.frozen(self.second(self.first(x).tanh()).tanh()) * (1 + 0.01 * float(self.calls))
        out: Tensor = self.last(x)
        return out


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer] | None] = {
    "own": None,
    "SGD with momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, foreach=False),
    "Adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=0.01, foreach=False),
}


def odd_trainer(sync: Alone, optimizer: str) -> Trainer:
    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(3, 4, 4, generator=generator), torch.randn(3, generator=generator)) for _ in range(40)]
    config = TrainingConfig(learning_rate=1e-2, warmup_steps=2, max_steps=6, micro_batches=2, batch_size=4)
    model = Odd()
    make = OPTIMIZERS[optimizer]
    return Trainer(
        model, pairs, config, loss_fn=nn.functional.mse_loss, optimizer=make(model) if make else None, sync=sync
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("version", [0, 1, 4])
def test_the_steps_after_a_state_was_taken_are_the_donors(optimizer: str, version: int) -> None:
    """Against a training that was never interrupted: every parameter, buffer, moment and number."""
    donor, whole = (odd_trainer(Alone(), optimizer) for _ in range(2))
    whole.train()
    if version:
        donor.train_steps(version)
    snapshot = sent(donor)
    joiner = odd_trainer(Joining(snapshot), optimizer)
    with torch.no_grad():
        for parameter in joiner.model.parameters():
            parameter.mul_(0.5)
    joiner.train()
    assert joiner.digest() == whole.digest() and joiner.state() == whole.state()
    ends = [trainer._stepper.snapshot() for trainer in (joiner, whole)]
    assert ends[0].facts == ends[1].facts and ends[0].tensors.keys() == ends[1].tensors.keys()
    assert all(torch.equal(tensor, ends[1].tensors[name]) for name, tensor in ends[0].tensors.items())
    assert digest_of(whole.model) == ends[0].digest()


def test_a_trainer_that_has_trained_is_brought_back_whole() -> None:
    """A state of before, taken by one that is ahead: also its moments, that have since begun, are forgotten."""
    donor = odd_trainer(Alone(), "own")
    snapshot = sent(donor)
    ahead = odd_trainer(Alone(), "own")
    ahead.train_steps(3)
    ahead._replica.take(snapshot)
    fresh = odd_trainer(Alone(), "own")._replica.snapshot()
    taken = ahead._replica.snapshot()
    assert taken.facts == fresh.facts
    assert all(torch.equal(tensor, fresh.tensors[name]) for name, tensor in taken.tensors.items())


def test_float_sums_and_an_evaluation_that_is_no_number_are_taken_too() -> None:
    donor = gpt_trainer(Alone(), reduction="float", max_steps=3)
    donor.train()
    donor._stepper.evaluations.loss = math.nan
    joiner = gpt_trainer(Joining(sent(donor)), reduction="float", max_steps=3)
    joiner.train()
    assert joiner.digest() == donor.digest() and joiner.best_eval == donor.best_eval
    assert joiner.eval_loss is not None and math.isnan(joiner.eval_loss)


def test_the_state_of_another_model_is_refused_and_changes_nothing() -> None:
    other = Trainer(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)), regression_pairs(40))
    mine = small_trainer()
    before = mine.digest()
    with pytest.raises(DataError, match="another model"):
        mine._replica.take(sent(other))
    assert mine.digest() == before


@pytest.mark.parametrize("fault", ["parameters.0.bias", "parameters.2.weight"])
def test_a_state_that_is_not_what_was_agreed_is_not_taken(fault: str) -> None:
    """Its digest is taken before anything changes."""
    donor = small_trainer()
    donor.train_steps(2)
    snapshot = sent(donor)
    joining = Joining(snapshot)
    agreed = snapshot.digest()
    joining.begin = lambda standing: Start(Position(0, 2), How.FETCH, digest=agreed)  # type: ignore[method-assign]
    snapshot.tensors[fault].view(torch.int32).view(-1)[1] ^= 1
    joiner = small_trainer(joining)
    before = joiner.digest()
    with pytest.raises(Exception, match="not the one that all had agreed on"):
        joiner.train()
    assert (joiner.version, joiner.digest()) == (0, before)


# ------------------------------------------------------------ values apart


def test_a_value_that_was_taken_apart_is_put_together_the_same() -> None:
    """Keys that are numbers, tuples, numbers that JSON has not, tensors of any layout and type, deep inside."""
    strange = torch.arange(12).reshape(3, 4).t()
    value = {0: {"step": torch.tensor(3.0), "more": [strange, (1, 2.5, None)]}, "x": [math.inf, -math.inf, True, "t"]}
    tensors: dict[str, Tensor] = {}
    kept = json.loads(json.dumps(apart(value, "v", tensors)))
    back: Any = together(kept, {name: tensor.clone() for name, tensor in tensors.items()})
    assert all(tensor.is_contiguous() for tensor in tensors.values()) and len(tensors) == 2
    assert torch.equal(back[0]["more"][0], strange) and back[0]["more"][0].stride() == strange.stride()
    assert back[0]["more"][1] == (1, 2.5, None) and torch.equal(back[0]["step"], torch.tensor(3.0))
    assert back["x"] == [math.inf, -math.inf, True, "t"] and list(back) == [0, "x"]
    assert math.isnan(together(json.loads(json.dumps(apart(math.nan, "n", {}))), {}))


@pytest.mark.parametrize("value", [object(), {1}, b"bytes", 1j, np.int64(3)])
def test_what_json_cannot_hold_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.state\.memory is a .* tensors, numbers"):
        apart({"state": {"memory": value}}, "optimizer", {})


# ------------------------------------------------------------ checks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (64,), (5, 6), (0,)])
def test_any_flipped_bit_changes_the_sum_over_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Against the same sum by numpy, in words as wide as fit; and for a tensor that begins at an odd place."""
    base = torch.randint(0, 2, (torch.Size(shape).numel() + 3,)).to(dtype)
    tensor = base[3:].reshape(shape)
    raw = tensor.reshape(-1).numpy().tobytes()
    width = math.gcd(len(raw), 3 * tensor.element_size(), 8)
    words = np.frombuffer(raw, f"<u{width}" if width < 8 else "<i8").astype(np.int64)
    assert bits_of(tensor) == int(words.sum())
    for place in range(tensor.numel()):
        bytes_of = base.view(torch.uint8)
        at = (3 + place) * tensor.element_size()
        before = bits_of(tensor)
        bytes_of[at] ^= 1
        assert bits_of(tensor) != before
        bytes_of[at] ^= 1


def test_own_moments_are_checked_in_three_sums() -> None:
    """A flip in either moment, or in a count, is a flip in what is summed."""
    model = mlp()
    optimizer = AdamW(model.parameters(), 0.1, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = bits_of(*optimizer.flat)
    state = optimizer.state_dict()
    for tensor in (state["counts"], state["first"][1], state["second"][3]):
        words = tensor.view(torch.int32).view(-1)
        words[0] ^= 1 << 7
        assert bits_of(*optimizer.flat) != before
        words[0] ^= 1 << 7
    assert bits_of(*optimizer.flat) == before


# ------------------------------------------------------------ files


def test_a_state_that_is_written_and_read_is_the_same_state(tmp_path: Path) -> None:
    """Facts and tensors; the same bytes each time; a trainer goes on from it as if nothing had been."""
    donor, whole = odd_trainer(Alone(), "own"), odd_trainer(Alone(), "own")
    donor.train_steps(3)
    whole.train()
    snapshot = donor._stepper.snapshot()
    for name in ("one", "two"):
        save_snapshot(snapshot, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]
    read = load_snapshot(tmp_path / "one")
    assert read.facts == json.loads(json.dumps(snapshot.facts)) and read.digest() == donor.digest()
    joiner = odd_trainer(Joining(read), "own")
    joiner.train()
    assert joiner.digest() == whole.digest()


def test_a_flipped_bit_anywhere_in_the_file_of_a_state_is_found(tmp_path: Path) -> None:
    """In its header, its facts, its hashes, its tensors: the sentence says which file and what to do."""
    snapshot = Snapshot(
        {"parameters.a": torch.arange(3.0), "optimizer.x": torch.ones(2, 2)}, {"position": [0, 0, 0, 0], "x": 1.5}
    )
    path = tmp_path / "v0.safetensors"
    save_snapshot(snapshot, path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 7]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"v0\.safetensors.*anew"):
            load_snapshot(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="can't be read"):
        load_snapshot(path)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        load_snapshot(path)
