"""Data by number: a micro-batch is named by (step, index), and what it holds is a function of that and the seed.

Random access and no iterator state, so the cursor of a run is its step: whoever is given an index computes the same
samples, after a failure or a resume too. An epoch is one keyed permutation of the samples (`permuted`), cut into steps
of micro_batches * batch_size; each sample comes once, the last step keeps what is left over, ragged or empty.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from .corpus import Corpus, Source
from .errors import DataError
from .randomness import Shuffle, kept_randomness, key, permuted, seed_everything

__all__ = [
    "Batch",
    "Batches",
    "TextData",
    "kept_randomness",
    "key",
    "permuted",
    "seed_everything",
    "weight_of",
]

IGNORED = -100  # a target of this value is not learned and weighs nothing
WEIGHT_MOST = 2**24 - 1  # a weight times a power of two must be exact in float32
PROBED = 4  # samples at each end that a dataset without a fingerprint of its own is known by
ALIGNED_BYTES = 64  # some kernels give other bits for memory that is less aligned (numpy's is not)


class Batch(NamedTuple):
    """One micro-batch. A weight of 0 is counted and not run: `inputs` and `targets` are None if it has no sample."""

    inputs: Any
    targets: Any
    weight: int  # targets that are learned, or samples: what a mean over the step is weighted by
    samples: int


class Batches:
    """The micro-batches of a dataset, by number.

    dataset: map-style, with `__len__` and `__getitem__`; its samples are pairs (inputs, targets), or what `collate_fn`
    (default: torch's) makes such a pair of. Its own `fingerprint`, if it has one, stands for its contents.
    batch_size: samples in a micro-batch. An empty dataset can be evaluated (to nothing), not trained on.
    Raises DataError.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int,
        micro_batches: int,
        batch_size: int,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.length = _checked_length(dataset)
        self.dataset = dataset
        self.seed = seed
        self.micro_batches = micro_batches
        self.batch_size = batch_size
        self._collate: Callable[[list[Any]], Any] = collated if collate_fn is None else collate_fn
        self._shuffle = Shuffle(seed, self.length)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps that show each sample once; at least 1."""
        if self.length == 0:
            raise DataError(f"{type(self.dataset).__name__} holds no sample: there is nothing to train on [LW102]")
        return math.ceil(self.length / (self.micro_batches * self.batch_size))

    @property
    def evaluations(self) -> int:
        """Micro-batches that `evaluation` can give; 0 for an empty dataset."""
        return math.ceil(self.length / self.batch_size)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that a step, from 0, belongs to."""
        return step // self.steps_per_epoch

    def samples_of(self, step: int, index: int) -> list[int]:
        """The numbers of the samples in a micro-batch: what is left of the epoch, at most batch_size, perhaps none."""
        if step < 0 or not 0 <= index < self.micro_batches:
            raise IndexError(f"no micro-batch {index} in step {step}: a step has 0 to {self.micro_batches - 1}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = (step_in_epoch * self.micro_batches + index) * self.batch_size
        stop = min(start + self.batch_size, self.length)
        return self._shuffle.numbers(epoch, start, stop) if start < stop else []

    def batch(self, step: int, index: int) -> Batch:
        """Make micro-batch `index` of a step, both from 0.

        Seeds the global generators for the dataset's and the collate function's own randomness, and leaves them there.
        """
        numbers = self.samples_of(step, index)
        return self._made(numbers, key(self.seed, step, index, "data"))

    def evaluation(self, index: int) -> Batch:
        """Make the index-th batch in the dataset's own order; empty past the end. Seeds like `batch`."""
        if index < 0:
            raise IndexError(f"an evaluation batch has a number from 0, got {index}")
        start = index * self.batch_size
        numbers = list(range(start, min(start + self.batch_size, self.length)))
        return self._made(numbers, key(self.seed, 0, index, "evaluation"))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 in hex: the dataset's own, or over its length and its first and last samples. Draws no numbers."""
        own = getattr(self.dataset, "fingerprint", None)
        if isinstance(own, str) and own:
            return own
        digest = hashlib.sha256(f"{type(self.dataset).__name__} {self.length}".encode())
        numbers = sorted({*range(min(PROBED, self.length)), *range(max(0, self.length - PROBED), self.length)})
        with kept_randomness():
            for number in numbers:
                seed_everything(key(self.seed, 0, number, "fingerprint"))
                _hash_into(digest, self.dataset[number])
        return digest.hexdigest()

    def _made(self, numbers: list[int], seed: int) -> Batch:
        if not numbers:
            return Batch(None, None, 0, 0)
        seed_everything(seed)
        dataset = self.dataset
        pair = self._collate([dataset[number] for number in numbers])
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            shape = f"{len(pair)} parts" if isinstance(pair, tuple | list) else type(pair).__name__
            raise DataError(
                f"a micro-batch must be a pair (inputs, targets), {type(self.dataset).__name__} gave {shape}: "
                f"return pairs from the dataset or make one in collate_fn [LW104]"
            )
        inputs, targets = aligned(pair[0]), aligned(pair[1])
        return Batch(inputs, targets, weight_of(targets, len(numbers)), len(numbers))


class TextData(Dataset[tuple[Tensor, Tensor]]):
    """Text as a map-style dataset: sample k is bytes k*L to k*L+L+1, as L inputs and the L bytes that follow each.

    source: "" (the standard library's source), a file, folder, glob pattern or list of files, or a Corpus that has been
    read. part: "train" or "held_out", which has no sample if nothing is held out. Raises DataError.
    """

    def __init__(
        self,
        source: Source | Corpus = "",
        sequence_length: int = 128,
        part: Literal["train", "held_out"] = "train",
    ) -> None:
        if part not in ("train", "held_out"):
            raise DataError(f'part must be "train" or "held_out", got {part!r} [LW002]')
        self.corpus = source if isinstance(source, Corpus) else Corpus.read(source, sequence_length)
        self.sequence_length = sequence_length
        self.part = part
        text = self.corpus.text if part == "train" else self.corpus.held_out
        self.bytes = len(text)
        self._tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0)
        self._fingerprint = self.corpus.fingerprint_of(part, sequence_length)

    def __len__(self) -> int:
        return max(0, self.bytes - 1) // self.sequence_length

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets), int64 (L,) each; targets are the inputs one byte on."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        start = number * self.sequence_length
        window = self._tokens[start : start + self.sequence_length + 1].long()
        return window[:-1], window[1:]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files trained on."""
        return self.corpus.files

    @property
    def held_out_files(self) -> tuple[str, ...]:
        """The names of the files set aside for evaluation."""
        return self.corpus.held_out_files

    @property
    def fingerprint(self) -> str:
        """sha256 over the bytes of both parts, the sequence length and which part this is."""
        return self._fingerprint

    def held_out(self) -> TextData:
        """The evaluation part of the same text, read no second time."""
        return TextData(self.corpus, self.sequence_length, "held_out")

    def held_out_bytes(self) -> bytes:
        """The text set aside, to be compressed for comparison."""
        return self.corpus.held_out


def weight_of(targets: Any, samples: int) -> int:
    """Targets that are learned, if they are integers (not -100); else the number of samples. Raises DataError."""
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dtype not in _NOT_CLASSES:
        samples = targets.numel()
        # The least one alone tells most batches that all are learned; no unsigned one is -100, whatever torch compares.
        if targets.dtype.is_signed and samples and int(targets.min()) <= IGNORED:
            samples = int((targets != IGNORED).sum())
    if samples > WEIGHT_MOST:
        raise DataError(f"a micro-batch weighs at most {WEIGHT_MOST} targets, got {samples}: lower batch_size [LW105]")
    return samples


_NOT_CLASSES = (torch.bool, torch.complex32, torch.complex64, torch.complex128)


def collated(samples: list[Any]) -> Any:
    """What torch's default_collate makes of them; pairs with plain tensors in half the time."""
    if type(samples[0]) is tuple and {*map(len, samples)} == {2}:
        return [_stacked(part) for part in zip(*samples, strict=True)]
    return default_collate(samples)


def _stacked(parts: tuple[Any, ...]) -> Any:
    first = parts[0]
    plain = type(first) is Tensor and first.layout is torch.strided and not first.is_nested
    return torch.stack(parts) if plain else default_collate(list(parts))


def _checked_length(dataset: Any) -> int:
    name = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise DataError(
            "data must be a map-style dataset, got a DataLoader: pass its .dataset (and its collate_fn) [LW103]"
        )
    if isinstance(dataset, IterableDataset):
        raise DataError(
            f"data must be map-style, {name} is an IterableDataset: give it __len__ and __getitem__ [LW103]"
        )
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"data must be a map-style dataset, got {name}: pass an object with __len__ and __getitem__(number), "
            f"like a torch Dataset or a list of pairs (inputs, targets) [LW103]"
        )
    return len(dataset)


@overload
def aligned(value: Tensor) -> Tensor: ...
@overload
def aligned(value: Any) -> Any: ...
def aligned(value: Any) -> Any:
    """The same values in memory that starts on 64 bytes, copied only where it does not."""
    if isinstance(value, Tensor):
        dense = value.is_cpu and value.layout is torch.strided
        return value.clone() if dense and value.data_ptr() % ALIGNED_BYTES else value
    if type(value) in (tuple, list):
        return type(value)(aligned(part) for part in value)
    if type(value) is dict:
        return {name: aligned(part) for name, part in value.items()}
    return value


def _hash_into(digest: Any, value: Any) -> None:
    """Feed a sample to the digest. Objects we can't read are told by their type alone, never by an address."""
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        digest.update(f"{dense.dtype} {tuple(dense.shape)}".encode())
        digest.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for name, part in value.items():
            digest.update(f"{name!r}:".encode())
            _hash_into(digest, part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for part in value:
            _hash_into(digest, part)
    elif isinstance(value, str | bytes | int | float | complex | bool | None):
        digest.update(f"{value!r};".encode())
    elif hasattr(value, "tobytes") and hasattr(value, "dtype"):  # numpy, which need not be imported here
        digest.update(f"{value.dtype} {getattr(value, 'shape', '')}".encode() + value.tobytes())
    else:
        digest.update(f"{type(value).__name__};".encode())
