"""The flat layout: where parameters live, in which order of memory, and the digest of what lives there."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lightwatch.flat
from lightwatch.checkpoint import save_model
from lightwatch.config import GPTConfig, TrainingConfig
from lightwatch.errors import ConfigError
from lightwatch.exact import Accumulator
from lightwatch.flat import (
    ALIGNMENT,
    CHUNK_ELEMENTS,
    Buffers,
    FlatLayout,
    chunks,
    digest_of,
    in_memory_order,
    named_tensors,
)
from lightwatch.model import GPT
from lightwatch.trainer import Trainer
from tests.models import mlp, regression_pairs


class Mixed(nn.Module):
    """Odd sizes, a scalar, a transposed weight, a frozen one, an empty one, buffers of many dtypes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.odd = nn.Parameter(torch.randn(7, 13))
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.turned = nn.Parameter(torch.randn(5, 20).t())
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.round = nn.Parameter(torch.randn(64))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("count", torch.tensor(-3))
        self.register_buffer("small", torch.randn(5).to(torch.float16))
        self.register_buffer("wide", torch.randn(2, 3, dtype=torch.float64))
        self.register_buffer("bytes_", torch.arange(7, dtype=torch.uint8))
        self.register_buffer("nothing", None)
        self.register_buffer("passing", torch.randn(4), persistent=False)


def test_parameters_stand_in_reversed_order_at_multiples_of_64_with_zeros_between() -> None:
    """The values, the Parameter objects and the strides are the model's own; what pads them is zero."""
    model, same = Mixed(), Mixed()
    objects = dict(model.named_parameters())
    layout = FlatLayout(model)
    assert [slot.name for slot in layout.slots] == ["round", "turned", "scalar", "odd"]
    assert [slot.offset for slot in layout.slots] == [0, 64, 192, 256]
    assert layout.size == 384 and layout.weights.dtype == torch.float32
    held = torch.zeros(layout.size, dtype=torch.bool)
    for slot in layout.slots:
        before = same.get_parameter(slot.name)
        assert slot.parameter is objects[slot.name] is model.get_parameter(slot.name)
        assert slot.parameter.data_ptr() == layout.weights.data_ptr() + 4 * slot.offset
        assert slot.parameter.data_ptr() % ALIGNMENT == 0
        assert slot.parameter.stride() == before.stride() and torch.equal(slot.parameter, before)
        in_memory = before.detach().t() if slot.name == "turned" else before.detach()
        assert torch.equal(slot.of(layout.weights), in_memory.reshape(-1))
        slot.of(held)[:] = True
    assert not layout.weights[~held].any()


def test_padding_stays_zero_through_training() -> None:
    """Decay, moments and clipping never reach what is no parameter."""
    config = TrainingConfig(learning_rate=0.1, warmup_steps=0, micro_batches=2, batch_size=4, max_steps=3)
    trainer = Trainer(mlp(), regression_pairs(24), config, loss_fn=nn.functional.mse_loss)
    trainer.train()
    layout = trainer._replica.layout
    held = torch.zeros(layout.size, dtype=torch.bool)
    for slot in layout.slots:
        slot.of(held)[:] = True
    assert int((~held).sum()) > 0 and not layout.weights[~held].any()


def test_a_weight_with_gaps_is_made_dense() -> None:
    """A slice of a larger tensor is packed; its values and its place in the model stay."""
    model = nn.Module()
    whole = torch.arange(40.0).reshape(4, 10)
    model.gappy = nn.Parameter(whole[:, ::2])
    layout = FlatLayout(model)
    assert isinstance(model.gappy, nn.Parameter) and torch.equal(model.gappy, whole[:, ::2])
    assert layout.weights[:20].tolist() == whole[:, ::2].reshape(-1).tolist()


def test_buckets_cut_the_layout_at_slots_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end, and each parameter in one bucket; a bucket is closed once it holds its fill, the first one sooner."""
    monkeypatch.setattr(lightwatch.flat, "BUCKET_ELEMENTS", 128)
    layout = FlatLayout(Mixed())
    assert [(b.begin, b.end) for b in layout.buckets] == [(0, 64), (64, 192), (192, 384)]
    for slot in layout.slots:
        bucket = layout.buckets[slot.bucket]
        assert bucket.begin <= slot.offset and slot.offset + slot.count <= bucket.end
        assert layout.buckets[slot.bucket].of(layout.weights).numel() == bucket.end - bucket.begin


def test_models_without_float32_parameters_on_one_device_are_refused_by_name() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter with requires_grad"):
        FlatLayout(frozen)
    half = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16))
    with pytest.raises(ConfigError, match=r"parameter 1\.weight is torch\.bfloat16.*float32"):
        FlatLayout(half)
    apart = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ConfigError, match=r"\['cpu', 'meta'\]"):
        FlatLayout(apart)


def test_the_layouts_digest_tells_names_order_shapes_and_strides_apart() -> None:
    """Modules registered in another order, as from a set, and any other difference give another digest."""

    def digest(*layers: tuple[str, nn.Module]) -> str:
        model = nn.ModuleDict()
        for name, layer in layers:
            model[name] = layer
        return FlatLayout(model).digest()

    a, b = ("a", nn.Linear(3, 4)), ("b", nn.Linear(3, 4))
    assert digest(a, b) == digest(("a", nn.Linear(3, 4)), ("b", nn.Linear(3, 4)))
    others = [
        digest(b, a),
        digest(a, ("c", nn.Linear(3, 4))),
        digest(a, ("b", nn.Linear(4, 3))),
        digest(a, ("b", nn.Linear(3, 4, bias=False))),
        digest(a, b, ("n", nn.BatchNorm1d(4, affine=False))),
        digest(a, b, ("n", nn.BatchNorm1d(5, affine=False))),
    ]
    assert len({digest(a, b), *others}) == 1 + len(others)
    conv = nn.Conv2d(3, 4, 3)
    assert digest(("a", nn.Conv2d(3, 4, 3))) != digest(("a", conv.to(memory_format=torch.channels_last)))  # type: ignore[call-overload]


def test_the_check_over_the_weights_sees_every_single_bit() -> None:
    layout = FlatLayout(mlp())
    before = layout.check()
    assert before == int(layout.weights.numpy().view("int64").astype(object).sum() + 2**63) % 2**64 - 2**63
    bits = layout.weights.view(torch.int32)
    for bit in range(32):
        flip = -(2**31) if bit == 31 else 1 << bit
        bits[40] ^= flip
        assert layout.check() != before
        bits[40] ^= flip
    assert layout.check() == before


def conv_model(memory_format: torch.memory_format) -> nn.Sequential:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 2), nn.Flatten(), nn.Linear(36, 2))
    return model.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def images(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    return [(torch.randn(3, 6, 6, generator=generator), torch.randn(2, generator=generator)) for _ in range(count)]


@pytest.mark.parametrize("reduction", ["exact", "float"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_convolutions_mean_gradient_is_the_float64_one_in_any_memory_order(
    memory_format: torch.memory_format, reduction: str
) -> None:
    """A channels_last weight stays one, and its gradient is not shuffled by a flattening of storage."""
    pairs = images(8)
    reference = conv_model(torch.contiguous_format).double()
    x, y = torch.stack([a for a, _ in pairs]).double(), torch.stack([b for _, b in pairs]).double()
    nn.functional.mse_loss(reference(x), y).backward()  # type: ignore[no-untyped-call]
    model = conv_model(memory_format)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    class Step:
        """w -= g."""

        param_groups = [{"params": list(model.parameters()), "lr": 1.0}]  # noqa: RUF012

        def step(self) -> None:
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None and p.grad.stride() == p.stride()
                    p.sub_(p.grad)

    config = TrainingConfig(
        max_grad_norm=0, warmup_steps=0, micro_batches=4, batch_size=2, max_steps=1, reduction=reduction
    )
    Trainer(model, pairs, config, optimizer=Step(), loss_fn=nn.functional.mse_loss).train()  # type: ignore[arg-type]
    assert model[0].weight.is_contiguous(memory_format=memory_format)  # type: ignore[operator]
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        moved = (before[name] - model.get_parameter(name)).double()
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_gradient_is_flattened_in_the_memory_order_of_its_parameter() -> None:
    """Element for element beside the weights, whatever strides the backward chose; nothing is copied if they agree."""
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    gradient = torch.arange(48.0).reshape(4, 3, 2, 2)
    flat = in_memory_order(gradient, weight)
    assert flat.tolist() == gradient.permute(0, 2, 3, 1).reshape(-1).tolist()
    same = gradient.to(memory_format=torch.channels_last)
    assert in_memory_order(same, weight).data_ptr() == same.data_ptr()


def test_chunks_are_all_of_a_tensor_in_order() -> None:
    flat = torch.arange(2 * CHUNK_ELEMENTS + 5)
    parts = list(chunks(flat))
    assert [p.numel() for p in parts] == [CHUNK_ELEMENTS, CHUNK_ELEMENTS, 5]
    assert torch.equal(torch.cat(parts), flat)


def bytes_of(file: Path) -> dict[str, bytes]:
    """The tensors of a safetensors file, parsed here: 8 bytes of length, JSON, data."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    return {name: data[slice(*about["data_offsets"])] for name, about in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("writer", ["ours", "theirs"])
@pytest.mark.parametrize("kind", ["mixed", "tied", "batch norm"])
def test_the_digest_is_sha256_over_a_model_files_bytes_by_name(kind: str, writer: str, tmp_path: Path) -> None:
    """Anybody can take it again: parameters, then buffers, each sorted by name, as the file holds them."""
    made: dict[str, nn.Module] = {
        "mixed": Mixed(),
        "tied": GPT(GPTConfig(layers=1, heads=2, width=8, context=4, tied=True)),
        "batch norm": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    }
    model = made[kind]
    FlatLayout(model)
    file = tmp_path / "model.safetensors"
    if writer == "ours":
        save_model(model, file)
    else:
        state = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
        if kind == "tied":
            del state["head.weight"]
        save_file(state, file)
    found = bytes_of(file)
    parameters = sorted(set(found) & {name for name, _ in model.named_parameters()})
    buffers = sorted(set(found) - set(parameters))
    assert kind != "mixed" or buffers == ["bytes_", "count", "flags", "small", "wide"]
    expected = hashlib.sha256(b"".join(found[name] for name in parameters + buffers)).hexdigest()
    assert digest_of(model) == expected


def test_every_tensor_of_a_version_is_in_its_digest() -> None:
    """One bit of any parameter, frozen or not, or of any kept buffer gives another digest; a passing one doesn't."""
    model = Mixed()
    before = digest_of(model)
    for name, tensor in named_tensors(model):
        if not tensor.numel():
            continue
        bits = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        bits[-1] ^= 1
        assert digest_of(model) != before, name
        bits[-1] ^= 1
    assert digest_of(model) == before
    model.passing.add_(1)  # type: ignore[operator]
    assert digest_of(model) == before


def test_buffers_of_all_dtypes_survive_a_round_trip_bit_for_bit() -> None:
    """NaN payloads, signs of zero and odd lengths too; the words are int32, and a sum with zeros keeps them."""
    model, other = Mixed(), Mixed()
    model.wide[0, 0] = float("nan")  # type: ignore[operator]
    model.wide[0, 1] = -0.0  # type: ignore[operator]
    buffers = Buffers(model)
    words = buffers.read()
    assert words.dtype == torch.int32 and words.numel() == buffers.words == 1 + 2 + 3 + 12 + 2 + 4
    for buffer in other.buffers():
        buffer.zero_()
    Buffers(other).write(words + torch.zeros_like(words))
    for (name, mine), theirs in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(mine.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8)), name


def test_a_buffer_that_is_replaced_by_another_tensor_is_still_followed() -> None:
    """`self.mean = ...` in a forward puts a new tensor there; reading and writing mean the one that is there now."""
    model = nn.BatchNorm1d(3)
    buffers = Buffers(model)
    before = buffers.read()
    model.running_mean = torch.tensor([1.0, 2.0, 3.0])
    assert buffers.read()[:3].view(torch.float32).tolist() == [1.0, 2.0, 3.0]
    buffers.write(before)
    assert model.running_mean.tolist() == [0.0, 0.0, 0.0]


def test_a_model_without_buffers_has_no_words() -> None:
    buffers = Buffers(mlp())
    assert buffers.words == 0 and buffers.read().numel() == 0


def test_closing_an_accumulator_takes_its_hooks_off() -> None:
    """After `close` a backward leaves gradients to whoever asked for them."""
    model = mlp()
    part = Accumulator(FlatLayout(model), exact=True)
    part.begin([20] * 4)
    part.close()
    with part.micro_batch(1):
        model(torch.randn(2, 6)).sum().backward()
    assert not part.sums.any() and all(p.grad is not None for p in model.parameters())
