"""The parts of a checkpoint: safetensors files that hold a state between them.

Laws
  1. A state is cut the same way whoever saves it: its tensors, in the order of their names, in pieces of at most
     PIECE_ELEMENTS. A share of it is a run of pieces; how many shares there are is seen in the files alone.
  2. The state's digest is over its pieces' sha256: those who hold one share each give the same digest as one process.
  3. A share is memory of its own, so it can be written while training goes on. Files are written piece by piece: a
     save needs the share's memory once, and holds the interpreter's lock for moments only.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checkpoints import Attempt
from .errors import ConfigError, DataError
from .files import written_aside
from .manifest import Manifest, WrittenFile, refuse_damaged
from .snapshot import BUFFERS, PARAMETERS, Snapshot

FORMAT = "part 1"
HEAD = "lightwatch"
"""The name of the metadata's one entry."""
PIECE_ELEMENTS = 1 << 18
HEADER_BYTES_MOST = 100_000_000  # that of the safetensors library
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

Form = tuple[str, tuple[int, ...]]
"""A tensor's dtype, as torch calls it, and shape."""


class Piece(NamedTuple):
    """Elements `begin` to `end` of the tensor `name`, rows after rows."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Share:
    """One share of a state, in memory of its own. forms, facts: of the whole. held: name -> (first element, 1-D)."""

    forms: dict[str, Form]
    facts: dict[str, Any]
    held: dict[str, tuple[int, Tensor]]

    def pieces(self) -> list[tuple[Piece, Tensor]]:
        """What it holds, cut as the state is cut."""
        return [
            (Piece(name, begin + start, begin + start + len(part)), part)
            for name, (begin, flat) in sorted(self.held.items())
            for start in range(0, max(len(flat), 1), PIECE_ELEMENTS)
            for part in [flat[start : start + PIECE_ELEMENTS]]
        ]


def forms_of(tensors: dict[str, Tensor]) -> dict[str, Form]:
    """Raises ConfigError for a tensor that no file can hold."""
    forms = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    for name, (dtype, _) in forms.items():
        if dtype not in DTYPES:
            raise ConfigError(
                f"{name} is of dtype {dtype}, which a checkpoint can't hold; use {', '.join(DTYPES)} [LW211]"
            )
    return forms


def pieces_of(forms: dict[str, Form]) -> list[Piece]:
    """How a state of these tensors is cut, in order."""
    return [
        Piece(name, begin, min(begin + PIECE_ELEMENTS, count))
        for name in sorted(forms)
        for count in [math.prod(forms[name][1])]
        for begin in range(0, max(count, 1), PIECE_ELEMENTS)
    ]


def share_of(snapshot: Snapshot, index: int = 0, count: int = 1, over: Share | None = None) -> Share:
    """Copy share number `index` of `count`: about as many bytes as each other one. Blocks for that one copy.

    over: a share that nobody needs any more. Its memory becomes the new one's where it fits: a copy into memory that
    the system has yet to give takes three times as long. Raises ConfigError for a tensor that no file can hold.
    """
    forms = forms_of(snapshot.tensors)
    pieces = pieces_of(forms)
    sizes = [(piece.end - piece.begin) * snapshot.tensors[piece.name].element_size() for piece in pieces]
    whole, before = max(sum(sizes), 1), 0
    own: dict[str, tuple[int, int]] = {}
    for piece, size in zip(pieces, sizes, strict=True):
        if before * count // whole == index or (before == whole and index == count - 1):
            own[piece.name] = (own.get(piece.name, (piece.begin, 0))[0], piece.end)
        before += size
    gone = over.held if over else {}
    held = {
        name: (begin, _copied(snapshot.tensors[name].detach().reshape(-1)[begin:end], *gone.get(name, ())[1:]))
        for name, (begin, end) in own.items()
    }
    return Share(forms, copy.deepcopy(snapshot.facts), held)


def _copied(flat: Tensor, memory: Tensor | None = None) -> Tensor:
    if memory is not None and (memory.dtype, memory.shape) == (flat.dtype, flat.shape):
        return memory.copy_(flat)
    return flat.to("cpu", copy=True)


def write_part(share: Share, folder: Path, name: str, passing: Callable[[str], object] = lambda _: None) -> WrittenFile:
    """Write a share to `folder`/`name`, whole or not at all. The same share gives the same bytes.

    Blocks until the disk has it. passing: as for `written_aside`, and "piece" before each piece. Raises OSError.
    """
    # Wide elements first: a reader maps each tensor where it lies, so it must lie at a multiple of its element's size.
    order = sorted(share.held, key=lambda each: (-share.held[each][1].element_size(), each))
    hashes: dict[str, list[str]] = {}
    for piece, part in share.pieces():
        hashes.setdefault(piece.name, []).append(_sha256(part))
    header = _header(share, order, hashes)
    sha = hashlib.sha256()
    written = 0
    with written_aside(folder / name, passing) as file:
        for content in _contents(header, (share.held[each][1] for each in order), passing):
            file.write(content)
            sha.update(content)
            written += len(content)
    return WrittenFile(name, written, sha.hexdigest())


def state_digest(snapshot: Snapshot) -> str:
    """sha256 over weights, buffers, optimizer, exponents and version: equal for two states whose next steps are."""
    forms = forms_of(snapshot.tensors)
    flat = {name: tensor.detach().cpu().reshape(-1) for name, tensor in snapshot.tensors.items()}
    return _digest(
        forms, snapshot.facts, {each: _sha256(flat[each.name][each.begin : each.end]) for each in pieces_of(forms)}
    )


def state_digest_of(folder: Path, names: Iterable[str], share: Share) -> str:
    """The same, of the state whose parts these files of `folder` are. Only their headers are read. Raises DataError."""
    hashes: dict[Piece, str] = {}
    for name in names:
        for piece, sha in _told(folder / name, share.forms):
            hashes[piece] = sha
    return _digest(share.forms, share.facts, hashes)


def manifest_of(
    attempt: Attempt, share: Share, files: Sequence[WrittenFile], digest: str, about: dict[str, Any]
) -> Manifest:
    """The manifest of a save whose parts are these files, whoever wrote them; by whoever holds one of the shares.

    digest: of the weights. about: the fields that only the caller knows, `version` and `lineage` among them. Reads the
    parts' headers. Raises DataError if a part lacks.
    """
    return Manifest(
        run=attempt.run,
        digest=digest,
        state_digest=state_digest_of(attempt.path, [file.name for file in files], share),
        tensors=share.forms,
        facts=share.facts,
        files=tuple(files),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
    )


def weights_digest(folder: Path, files: Sequence[WrittenFile], forms: dict[str, Form]) -> str:
    """The digest of the weights in these parts, as they lie on the disk: reads the weights again, a piece at a time.

    Raises DataError for a part that is not what its writer said, or if some weights are in none.
    """
    where: dict[str, list[tuple[int, Path]]] = {}
    for each in files:
        path = folder / each.name
        if not path.is_file() or path.stat().st_size != each.bytes:
            raise DataError(f"{path} is not as long as its writer said [LW605]")
        for piece, _ in _told(path, forms):
            where.setdefault(piece.name, []).append((piece.begin, path))
    sha = hashlib.sha256()
    for kind in (PARAMETERS, BUFFERS):
        for name in sorted(each for each in forms if each.startswith(kind)):
            for path in dict.fromkeys(path for _, path in sorted(where.get(name, []))):
                with safe_open(path, framework="pt") as file:
                    for part in torch.split(file.get_tensor(name).reshape(-1), PIECE_ELEMENTS):
                        sha.update(_bytes(part))
    return sha.hexdigest()


def read_state(folder: Path, manifest: Manifest) -> Snapshot:
    """The state in a checkpoint, in memory of its own: every byte of it is what was written, or DataError is raised."""
    refuse_damaged(folder, manifest)
    _refuse_impossible(folder, manifest)
    flat = {
        name: torch.empty(math.prod(shape), dtype=_dtype(dtype)) for name, (dtype, shape) in manifest.tensors.items()
    }
    reached: dict[str, list[tuple[int, int]]] = {name: [] for name in flat}
    for each in manifest.files:
        path = folder / each.name
        begins = {piece.name: piece.begin for piece, _ in reversed(_told(path, manifest.tensors))}
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    held = file.get_tensor(name).reshape(-1)
                    flat[name][begins[name] : begins[name] + len(held)].copy_(held)
                    reached[name].append((begins[name], begins[name] + len(held)))
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{path} can't be read as a part of a state: {error} [LW605]") from None
    snapshot = Snapshot({name: flat[name].reshape(manifest.tensors[name][1]) for name in sorted(flat)}, manifest.facts)
    gap = next((name for name in flat if not _tiles(reached[name], len(flat[name]))), None)
    what = f"its parts do not hold all of {gap}" if gap else _differing(snapshot, manifest)
    if what:
        raise DataError(f"{folder} is not one state: {what}; take an older checkpoint [LW605]")
    return snapshot


def _refuse_impossible(folder: Path, manifest: Manifest) -> None:
    """Raise DataError for tensors that its parts can't hold: no memory is asked for what is not there."""
    shapes = [(shape, _dtype(dtype).itemsize) for dtype, shape in manifest.tensors.values()]
    need = sum(math.prod(shape) * size for shape, size in shapes)
    if need > manifest.bytes or any(length < 0 for shape, _ in shapes for length in shape):
        raise DataError(f"{folder}: its parts have {manifest.bytes:,} bytes, its tensors would need {need:,} [LW605]")


def _differing(snapshot: Snapshot, manifest: Manifest) -> str | None:
    if snapshot.digest() != manifest.digest:
        return "the weights have another digest than the manifest says"
    if state_digest(snapshot) != manifest.state_digest:
        return "it has another state digest than the manifest says"
    return None


def _tiles(stretches: list[tuple[int, int]], count: int) -> bool:
    """Whether they cover `count` elements, each once."""
    end = 0
    for begin, after in sorted(stretches):
        if begin != end:
            return False
        end = after
    return end == count and bool(stretches)


def _digest(forms: dict[str, Form], facts: dict[str, Any], hashes: dict[Piece, str]) -> str:
    told = {name: facts.get(name) for name in ("exponents", "optimizer")} | {
        "version": facts.get("position", [0, 0])[1]
    }
    lines = [json.dumps(told, sort_keys=True)]
    for piece in pieces_of(forms):
        dtype, shape = forms[piece.name]
        if piece not in hashes:
            raise DataError(f"no part holds elements {piece.begin} to {piece.end} of {piece.name} [LW605]")
        lines.append(f"{piece.name} {dtype} {list(shape)} {piece.begin} {hashes[piece]}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _header(share: Share, order: list[str], hashes: dict[str, list[str]]) -> bytes:
    pieces = {name: {"begin": share.held[name][0], "sha256": hashes[name]} for name in order}
    told: dict[str, Any] = {"__metadata__": {HEAD: json.dumps({"format": FORMAT, "pieces": pieces}, sort_keys=True)}}
    start = 0
    for name in order:
        dtype, shape = share.forms[name]
        flat = share.held[name][1]
        end = start + flat.numel() * flat.element_size()
        own = list(shape) if flat.numel() == math.prod(shape) else [flat.numel()]
        told[name] = {"dtype": DTYPES[dtype], "shape": own, "data_offsets": [start, end]}
        start = end
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _contents(header: bytes, flats: Iterable[Tensor], passing: Callable[[str], object]) -> Iterable[bytes | memoryview]:
    yield header
    for flat in flats:
        for part in torch.split(flat, PIECE_ELEMENTS):
            passing("piece")
            yield _bytes(part)


def _told(path: Path, forms: dict[str, Form]) -> list[tuple[Piece, str]]:
    """The pieces in a part, and the sha256 of each, as its header says. Raises DataError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_BYTES_MOST:
                raise ValueError("its header is too long")
            told = json.loads(json.loads(file.read(length))["__metadata__"][HEAD])
        if told["format"] != FORMAT:
            raise ValueError(f"it is of the format {told['format']!r}, expected {FORMAT!r}")
        return [
            (Piece(name, begin, min(begin + PIECE_ELEMENTS, math.prod(forms[name][1]))), sha)
            for name, piece in told["pieces"].items()
            for begin, sha in zip(range(piece["begin"], 1 << 62, PIECE_ELEMENTS), piece["sha256"], strict=False)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read as a part of a state: {error} [LW605]") from None


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise DataError(f"a checkpoint has a tensor of dtype {name!r}, which this lightwatch does not know [LW605]")
    found: torch.dtype = getattr(torch, name)
    return found


def _sha256(part: Tensor) -> str:
    return hashlib.sha256(_bytes(part)).hexdigest()


def _bytes(part: Tensor) -> memoryview:
    return part.contiguous().view(torch.uint8).numpy().data
