"""A state as it is fetched: a manifest, and chunks of packed bytes that can be checked one by one.

Tensors stand one after the other in the order of their names' manifest, each at a multiple of 64 bytes, so that what
was fetched is used where it lies. The manifest has a sha256 for each chunk; facts travel in it as JSON.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from lightwatch.errors import LightwatchError
from lightwatch.snapshot import Snapshot

CHUNK_BYTES = 4 << 20
CHUNK_BYTES_MOST = 16 << 20
STATE_BYTES_MOST = 1 << 42
ALIGNMENT = 64
FORMAT = 1
DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "complex64", "int64", "int32", "int16", "int8", "uint8")
} | {"bool": torch.bool}


class StateRefused(LightwatchError, ValueError):
    """A manifest that can't be true, or that this release can't read: nothing was taken."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What a state consists of: (name, dtype, shape) in packed order, facts as JSON, a sha256 for each chunk."""

    format: int = FORMAT
    tensors: list[tuple[str, str, list[int]]]
    facts: str
    chunk_bytes: int
    sha256: list[bytes]


def places(tensors: list[tuple[str, str, list[int]]]) -> tuple[list[int], int]:
    """Where each tensor begins in the packed bytes, and their number. Raises StateRefused for what can't be."""
    starts, size = [], 0
    if len({name for name, _, _ in tensors}) != len(tensors):
        raise StateRefused("a manifest names a tensor twice [LW403]")
    for name, dtype, shape in tensors:
        if dtype not in DTYPES or any(length < 0 for length in shape):
            raise StateRefused(f"a manifest has {name!r} as {dtype} {shape}, which no tensor of a state is [LW506]")
        starts.append(size)
        size += -(-math.prod(shape) * DTYPES[dtype].itemsize // ALIGNMENT) * ALIGNMENT
    return starts, size


class Whole:
    """A holder's own state, read where it lies: offer it only while it can't change.

    Its manifest is hashed chunk by chunk, by whoever calls `work`, and only once somebody wants it.
    """

    def __init__(self, snapshot: Snapshot, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._flat = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in snapshot.tensors.values()]
        self._tensors = [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
            for name, tensor in snapshot.tensors.items()
        ]
        self._facts = json.dumps(snapshot.facts)
        self._chunk_bytes = chunk_bytes
        self._starts, self._size = places(self._tensors)
        self._sha256: list[bytes] = []
        self.wanted = False
        self.manifest: Manifest | None = None

    def work(self) -> bool:
        """Hash one chunk more, if the manifest is wanted; whether more is left to do."""
        if not self.wanted or self.manifest is not None:
            return False
        number = len(self._sha256)
        if number * self._chunk_bytes < self._size:
            self._sha256.append(hashlib.sha256(self._read(number)).digest())
            return True
        self.manifest = Manifest(
            tensors=self._tensors, facts=self._facts, chunk_bytes=self._chunk_bytes, sha256=self._sha256
        )
        return False

    def chunk(self, number: int) -> bytes | None:
        """Its bytes; None if there is no such chunk."""
        return self._read(number) if 0 <= number * self._chunk_bytes < self._size else None

    def _read(self, number: int) -> bytes:
        begin = number * self._chunk_bytes
        end = min(begin + self._chunk_bytes, self._size)
        pieces: list[bytes | memoryview] = []
        reached = begin
        for place in range(max(bisect.bisect_right(self._starts, begin) - 1, 0), len(self._flat)):
            start, flat = self._starts[place], self._flat[place]
            if start >= end:
                break
            piece = flat[max(begin - start, 0) : max(end - start, 0)]
            if piece.numel():
                at = max(start, begin)
                pieces += [bytes(at - reached), piece.cpu().numpy().data]
                reached = at + piece.numel()
        return b"".join([*pieces, bytes(end - reached)])


class Partial:
    """A state that is being fetched, in fresh memory: what has come and was right can be passed on at once."""

    wanted = True

    def __init__(self, manifest: Manifest) -> None:
        self._starts, size = places(manifest.tensors)
        fits = 0 < manifest.chunk_bytes <= CHUNK_BYTES_MOST and size <= STATE_BYTES_MOST
        if manifest.format != FORMAT:
            raise StateRefused(
                f"this release reads states of format {FORMAT}, one came in format {manifest.format}; "
                "run one release everywhere [LW506]"
            )
        if not fits or len(manifest.sha256) != -(-size // manifest.chunk_bytes):
            raise StateRefused(
                f"a manifest of {size} bytes has {len(manifest.sha256)} hashes, for chunks of {manifest.chunk_bytes} "
                "[LW506]"
            )
        self.manifest = manifest
        self._memory = torch.empty(size, dtype=torch.uint8)
        self._have = [False] * len(manifest.sha256)

    def work(self) -> bool:
        """Nothing is left to hash."""
        return False

    def missing(self) -> list[int]:
        """The chunks that have not come, in order."""
        return [number for number, here in enumerate(self._have) if not here]

    def take(self, number: int, data: bytes) -> bool:
        """Keep a chunk, if it is the one that the manifest names. False: it is not, and nothing was kept."""
        if not 0 <= number < len(self._have) or hashlib.sha256(data).digest() != self.manifest.sha256[number]:
            return False
        place = self._place(number)
        if len(data) != len(place):
            return False
        place[:] = data
        self._have[number] = True  # last: the larder's thread reads what is here
        return True

    def chunk(self, number: int) -> bytes | None:
        """Its bytes, once they have come."""
        if 0 <= number < len(self._have) and self._have[number]:
            return self._place(number).tobytes()
        return None

    def snapshot(self) -> Snapshot:
        """The state, in this memory. Only when nothing is missing."""
        tensors: dict[str, Tensor] = {}
        for (name, dtype, shape), start in zip(self.manifest.tensors, self._starts, strict=True):
            size = math.prod(shape) * DTYPES[dtype].itemsize
            tensors[name] = self._memory[start : start + size].view(DTYPES[dtype]).reshape(shape)
        facts: Any = json.loads(self.manifest.facts)
        if not isinstance(facts, dict):
            raise StateRefused("a manifest's facts are no table of names [LW506]")
        return Snapshot(tensors, facts)

    def _place(self, number: int) -> memoryview:
        chunk_bytes = self.manifest.chunk_bytes
        whole: memoryview = self._memory.numpy().data
        return whole[number * chunk_bytes : (number + 1) * chunk_bytes]


Stock = Whole | Partial
