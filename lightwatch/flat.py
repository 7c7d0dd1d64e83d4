"""The flat layout: every trainable parameter of a model at a fixed place in one array.

Laws
  1. Parameters stand in reversed registration order (about the order in which a backward finishes them), each padded
     to 64 elements with zeros. Cuts are made only at such places: fused AdamW's bits depend on where a tensor is cut.
  2. The model's own Parameter objects stay; only their storage moves into `weights`. Each keeps its memory order, so a
     channels_last convolution stays one.
  3. Everything that is summed, hashed or sent walks this layout, never the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .snapshot import sha256_of

ALIGNMENT = 64
BUCKET_ELEMENTS = 1 << 20
FIRST_BUCKET_SHARE = 4
"""The first bucket is so many times smaller: the sooner it leaves, the sooner a thin link has something to carry."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK_ELEMENTS = 1 << 17
"""Elements worked on at a time: 128 Ki of float32 stay in a core's cache."""


@dataclass(frozen=True)
class Slot:
    """Where one parameter lives: `count` elements from `offset`, in its own memory order."""

    name: str
    parameter: nn.Parameter
    offset: int
    count: int
    bucket: int

    def of(self, flat: Tensor) -> Tensor:
        """This parameter's 1-D stretch of a flat array."""
        return flat[self.offset : self.offset + self.count]

    def shaped(self, flat: Tensor) -> Tensor:
        """The same stretch with the parameter's shape and strides."""
        return self.of(flat).as_strided(self.parameter.shape, self.parameter.stride())


@dataclass(frozen=True)
class Bucket:
    """A stretch of the layout that is reduced in one piece."""

    begin: int
    end: int

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.begin : self.end]


class FlatLayout:
    """Moves a model's trainable parameters into one flat float32 array and remembers where each is.

    weights: float32 (size,), on the model's device; the parameters are views of it. gradient_bytes: without padding.
    Raises ConfigError for a model without trainable parameters, with other dtypes than float32, or on several devices.
    """

    def __init__(self, model: nn.Module) -> None:
        trainable = trainable_parameters(model)
        _check(trainable)
        self.model = model
        self.slots: list[Slot] = []
        self.buckets: list[Bucket] = []
        offset = begin = 0
        for name, parameter in reversed(trainable):
            self.slots.append(Slot(name, parameter, offset, parameter.numel(), len(self.buckets)))
            offset += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            if offset - begin >= (BUCKET_ELEMENTS if self.buckets else BUCKET_ELEMENTS // FIRST_BUCKET_SHARE):
                self.buckets.append(Bucket(begin, offset))
                begin = offset
        if offset > begin:
            self.buckets.append(Bucket(begin, offset))
        self.size = offset
        self.gradient_bytes = 4 * sum(slot.count for slot in self.slots)
        self.device = trainable[0][1].device
        self.weights = torch.zeros(offset, dtype=torch.float32, device=self.device)
        self._move_in()

    def _move_in(self) -> None:
        with torch.no_grad():
            for slot in self.slots:
                if not _is_dense(slot.parameter):
                    slot.parameter.data = slot.parameter.data.contiguous()
                view = slot.shaped(self.weights)
                view.copy_(slot.parameter)
                slot.parameter.data = view

    def digest(self) -> str:
        """sha256 hex over names, shapes, memory order, dtypes and places: two models that differ in any can't sum."""
        text = [
            f"{s.name} {tuple(s.parameter.shape)} {s.parameter.stride()} {s.parameter.dtype} {s.offset}"
            for s in self.slots
        ]
        text += [f"{name} {tuple(b.shape)} {b.dtype}" for name, b in self.model.named_buffers()]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    def check(self) -> int:
        """The wrapping int64 sum over the weights' bits: 0.4 ms for 20 MB, and any single flipped bit changes it."""
        return bits_of(self.weights)


def bits_of(*tensors: Tensor) -> int:
    """The wrapping int64 sum over the bits of all tensors, in the widest words that fit: any flipped bit changes it."""
    total = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        size, start = flat.numel() * flat.element_size(), flat.storage_offset() * flat.element_size()
        width = math.gcd(size, start, 8)
        if size:
            total += int(flat.view(_WORDS[width]).sum(dtype=torch.int64))
    return (total + 2**63) % 2**64 - 2**63


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What is trained, in registration order: parameters with requires_grad that hold at least one element."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.numel()]


def in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` as 1-D in the memory order of `like`; copies only where the two differ in strides."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def chunks(flat: Tensor) -> Iterable[Tensor]:
    """Cache-sized pieces of a 1-D tensor, in order."""
    return torch.split(flat, CHUNK_ELEMENTS)


def digest_of(model: nn.Module) -> str:
    """The digest of a version: sha256 hex over the bytes of parameters, then of buffers, each sorted by name.

    Tied parameters count once, frozen ones count too, buffers as far as `state_dict` holds them: so the digest can be
    taken again from model.safetensors by anybody.
    """
    return sha256_of(tensor for _, tensor in named_tensors(model))


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a version consists of, in the digest's order: parameters, then persistent buffers, each sorted by name."""
    yield from sorted(model.named_parameters(), key=lambda item: item[0])
    kept = model.state_dict(keep_vars=True)
    yield from sorted(((n, b) for n, b in model.named_buffers() if n in kept), key=lambda item: item[0])


class Buffers:
    """A model's buffers as int32 words, so that they can ride with the sums.

    Each micro-batch starts from the version's buffers; micro-batch 0's are taken, and shared as a SUM of bit patterns
    to which only its owner contributes. A run of micro-batches elsewhere, in any order, thus changes nothing.

    A forward may change a buffer in place or put another tensor of the same shape in its place (`self.mean = ...`).
    """

    def __init__(self, model: nn.Module) -> None:
        named = [(path, module) for path, module in model.named_modules()]
        homes = [(module, name) for _, module in named for name in module._buffers]
        held = {id(b): (module, name) for module, name in reversed(homes) if (b := module._buffers[name]) is not None}
        self._homes = [home for home in homes if home in held.values()]
        paths = {module: f"{path}." if path else "" for path, module in named}
        self.names = [paths[module] + name for module, name in self._homes]
        self._sizes = [b.numel() * b.element_size() for b in self._now()]
        self.words = sum(-(-size // 4) for size in self._sizes)

    def read(self) -> Tensor:
        """int32 (words,): the bits of all buffers now, on the CPU."""
        words = torch.zeros(self.words, dtype=torch.int32)
        for stretch, buffer in self._stretches(words):
            stretch.copy_(buffer.detach().contiguous().cpu().reshape(-1).view(torch.uint8))
        return words

    def write(self, words: Tensor) -> None:
        """Set all buffers to the bits in `words`."""
        with torch.no_grad():
            for stretch, buffer in self._stretches(words):
                buffer.copy_(stretch.clone().view(buffer.dtype).reshape(buffer.shape))

    def named(self, words: Tensor) -> dict[str, Tensor]:
        """The buffers that `words` hold, by name, in memory of their own."""
        stretches = zip(self.names, self._stretches(words), strict=True)
        return {name: stretch.clone().view(b.dtype).reshape(b.shape) for name, (stretch, b) in stretches}

    def words_of(self, named: dict[str, Tensor]) -> Tensor:
        """What `named` was made of."""
        words = torch.zeros(self.words, dtype=torch.int32)
        for name, (stretch, _) in zip(self.names, self._stretches(words), strict=True):
            stretch.copy_(named[name].cpu().contiguous().reshape(-1).view(torch.uint8))
        return words

    def _now(self) -> list[Tensor]:
        """The tensors that are the buffers at this moment."""
        return [b for module, name in self._homes if (b := module._buffers[name]) is not None]

    def _stretches(self, words: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        raw = words.view(torch.uint8)
        at = 0
        for count, buffer in zip(self._sizes, self._now(), strict=True):
            yield raw[at : at + count], buffer
            at += -(-count // 4) * 4


def _is_dense(tensor: Tensor) -> bool:
    """No gaps and no overlaps: its memory is a permutation of its elements."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _check(trainable: list[tuple[str, nn.Parameter]]) -> None:
    if not trainable:
        raise ConfigError("the model has no parameter with requires_grad; there is nothing to train [LW201]")
    for name, parameter in trainable:
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"parameter {name} is {parameter.dtype}; lightwatch trains float32 parameters: "
                "keep them float32 and use torch.autocast in forward for lower precision [LW202]"
            )
    devices = {str(p.device) for _, p in trainable}
    if len(devices) > 1:
        raise ConfigError(f"parameters lie on {sorted(devices)}; a sphere is one device: move the model to one [LW203]")
