"""A state down the tree: from the first sphere to everybody, or to nobody.

  1. The manifest goes first: names, shapes, dtypes, and a sha256 for each chunk of 4 MiB of the packed bytes. Every
     sphere compares it with its own tensors; if one sphere's differ, all of them stop here, and nothing was taken.
  2. Chunk by chunk. A sphere that leads a group below passes a chunk on only after its hash was right, and receives
     the next one meanwhile, so a deep tree costs one chunk's time a level, not a state's. Inside a group gloo relays
     from member to member; each checks before it uses or passes on to another level.
  3. Chunks land in fresh memory. When all spheres have said that all of theirs are right, each copies the whole into
     place.

What it costs: the packed state once more, on every sphere, while it lasts; sha256 of it once on each (6 ms per 10 MB);
on each link one state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import torch

from lightwatch.errors import LightwatchError

from .groups import Groups, Started
from .reduce import sum_over_tree

CHUNK_BYTES = 4 << 20
MANIFEST_BYTES_MAX = 64 << 20
HASH_BYTES = 32
FORMAT = 1


class StateRefused(LightwatchError, ValueError):
    """The state offered does not fit the tensors of this sphere, or of another: the old ones are unchanged."""


class ChunkCorrupted(LightwatchError, RuntimeError):
    """Bytes arrived that are not those that the manifest names. They were not passed on; the old state is unchanged."""


def broadcast_state(groups: Groups, tensors: Mapping[str, torch.Tensor], holder: bool) -> None:
    """Give every sphere the tensors of the holder, which must be the first member. All spheres call it.

    tensors: the same names, in the same order, with the same shapes and dtypes on all; overwritten except at the
    holder. Blocks. Raises StateRefused (on all spheres, if one's tensors differ), ChunkCorrupted, PeerLost: with each
    of them no tensor has changed here.
    """
    if holder != groups.leads:
        raise ValueError(f"{groups}: the state comes from the first member, and from nobody else")
    state = _pack(tensors) if holder else None
    manifest = _share(groups, _describe(tensors, state) if state is not None else None)
    refusal = _compare(groups, manifest, tensors)
    refusals = _count(groups, bool(refusal))
    if refusal:
        raise StateRefused(refusal)
    if refusals:
        raise StateRefused(
            f"{refusals} other sphere(s) refused the state of the first one; nothing was taken anywhere [LW403]"
        )
    hashes = json.loads(manifest)["sha256"]
    received = _pass_on(groups, state, sum(tensor.nbytes for tensor in tensors.values()), hashes)
    _count(groups, False)
    if not holder:
        _unpack(received, tensors)


def _pack(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    parts = [tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in tensors.values()]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def _unpack(state: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
    start = 0
    with torch.no_grad():
        for tensor in tensors.values():
            part = state[start : start + tensor.nbytes].clone()  # a copy is aligned for any dtype
            tensor.copy_(part.view(tensor.dtype).reshape(tensor.shape))
            start += tensor.nbytes


def _shapes(tensors: Mapping[str, torch.Tensor]) -> list[list[object]]:
    return [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()]


def _describe(tensors: Mapping[str, torch.Tensor], state: torch.Tensor) -> bytes:
    hashes = [_hash(state[start : start + CHUNK_BYTES]) for start in range(0, state.numel(), CHUNK_BYTES)]
    return json.dumps({"format": FORMAT, "tensors": _shapes(tensors), "sha256": hashes}).encode()


def _hash(chunk: torch.Tensor) -> str:
    return hashlib.sha256(chunk.numpy().data).hexdigest()


def _share(groups: Groups, manifest: bytes | None) -> bytes:
    """The manifest, received from above (unless it is ours) and passed on below: first its length and hash, then it."""
    head = torch.zeros(8 + HASH_BYTES, dtype=torch.uint8)
    if manifest is not None:
        stamp = len(manifest).to_bytes(8, "big") + hashlib.sha256(manifest).digest()
        head = torch.frombuffer(bytearray(stamp), dtype=torch.uint8)
    _down(groups, head)
    length = int.from_bytes(bytes(head[:8].tolist()), "big")
    if length > MANIFEST_BYTES_MAX:
        raise _corrupted(groups, f"a manifest of {length} bytes, more than {MANIFEST_BYTES_MAX}")
    body = torch.empty(length, dtype=torch.uint8)
    if manifest is not None:
        body = torch.frombuffer(bytearray(manifest), dtype=torch.uint8)

    def check() -> None:
        if hashlib.sha256(body.numpy().data).digest() != bytes(head[8:].tolist()):
            raise _corrupted(groups, "a manifest with another hash than its head says")

    _down(groups, body, check)
    return body.numpy().tobytes()


def _down(groups: Groups, tensor: torch.Tensor, check: Callable[[], None] | None = None) -> None:
    for plan in groups.plans:
        groups.broadcast(plan, tensor)
        if plan.rank and check is not None:
            check()


def _compare(groups: Groups, manifest: bytes, tensors: Mapping[str, torch.Tensor]) -> str:
    """Why this sphere can't take the state; empty if it can."""
    who = f"sphere {groups.me.sphere} ({groups.me.path})"
    offered = json.loads(manifest)
    if offered["format"] != FORMAT:
        theirs = offered["format"]
        return f"{who} reads format {FORMAT}, the state comes in format {theirs}; run one release everywhere [LW506]"
    own = _shapes(tensors)
    theirs = offered["tensors"]
    for mine, other in zip(own, theirs, strict=False):
        if mine != other:
            return (
                f"{who} holds {_said(mine)}, the first sphere offers {_said(other)}; "
                "the old weights are kept: build the same model everywhere [LW403]"
            )
    if len(own) != len(theirs):
        return (
            f"{who} holds {len(own)} tensors, the first sphere offers {len(theirs)}; the old weights are kept [LW403]"
        )
    return ""


def _said(entry: list[object]) -> str:
    name, dtype, shape = entry
    return f"{name!r} as {str(dtype).removeprefix('torch.')} {shape}"


def _count(groups: Groups, refused: bool) -> int:
    """How many spheres refuse. Also the point that nobody passes before all have come to it."""
    count = torch.tensor([int(refused)])
    sum_over_tree(groups, count)
    return int(count)


def _pass_on(groups: Groups, state: torch.Tensor | None, length: int, hashes: list[str]) -> torch.Tensor:
    """All chunks, from above (unless `state` is ours), checked, to below. Sends a chunk while receiving the next."""
    memory = torch.empty(length, dtype=torch.uint8) if state is None else state
    above = groups.plans[0] if groups.plans and groups.plans[0].rank else None
    below = [plan for plan in groups.plans if not plan.rank]
    sending: list[Started] = []
    for number, expected in enumerate(hashes):
        chunk = memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        if above is not None:
            groups.broadcast(above, chunk)
            if _hash(chunk) != expected:
                raise _corrupted(groups, f"chunk {number} of {len(hashes)} with another hash than its manifest says")
        for started in sending:
            started.wait()
        sending = [groups.start_broadcast(plan, chunk) for plan in below]
    for started in sending:
        started.wait()
    return memory


def _corrupted(groups: Groups, what: str) -> ChunkCorrupted:
    """Break off, so that nobody waits for what will not be passed on."""
    groups.abort()
    groups.close()
    source = groups.plans[0].members[0]
    return ChunkCorrupted(
        f"sphere {groups.me.sphere} ({groups.me.path}) received from sphere {source.sphere} ({source.path}) {what}; "
        "it was not passed on and the old state is kept [LW304]"
    )
