"""The manifest of a checkpoint: the file that is written last, and says what the folder holds. Standard library only.

Laws
  1. A folder with a manifest is a checkpoint; it is whole if every file that the manifest names is there, of that size
     and that sha256. What the manifest does not name is no part of it.
  2. The manifest holds a sha256 of itself and is written in one form only: no byte of a checkpoint can change unseen.
  3. It knows nothing of who wrote what: a part says itself which stretches of which tensors it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DataError
from .files import write_whole

FORMAT = "checkpoint 1"
MANIFEST = "manifest.json"
READ_BYTES = 1 << 20


class WrittenFile(NamedTuple):
    """A file as it lies on the disk. name: within the checkpoint's folder."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one checkpoint consists of, and what it was made of.

    digest: of the weights; state_digest: of weights, optimizer, exponents and version. tensors: name -> (dtype, shape)
    of the whole state; facts: what is no tensor in it. config: by section, as far as whoever saved knows them. data:
    the fingerprint of what was trained on. metrics: for people. orders: the wanted state in force. control: its state
    as JSON, which only control reads. spheres: a record of each. written_at: for people.
    """

    run: str
    version: int
    lineage: int
    digest: str
    state_digest: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    facts: dict[str, Any]
    files: tuple[WrittenFile, ...]
    tree: str = "1"
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0
    data: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    orders: dict[str, Any] = field(default_factory=dict)
    control: str = ""
    spheres: tuple[dict[str, Any], ...] = ()
    written_at: str = ""

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(file.bytes for file in self.files)

    @property
    def age(self) -> tuple[int, int]:
        """The newer of two checkpoints of a run has the greater one: a restore opens a lineage at an older version."""
        return self.lineage, self.version


def write_manifest(folder: Path, manifest: Manifest, passing: Callable[[str], object] = lambda _: None) -> str:
    """Write it into `folder`, in the place of one that is there: from now on this is what the folder holds.

    Every file in it must be on the disk. Returns the sha256 of the manifest's file. passing: as for `write_whole`.
    Raises OSError, and then the folder holds what it held before.
    """
    content = as_bytes(manifest)
    write_whole(folder / MANIFEST, content, passing)
    return hashlib.sha256(content).hexdigest()


def as_bytes(manifest: Manifest) -> bytes:
    """The one form in which a manifest is written."""
    return _signed({"format": FORMAT, **asdict(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint's folder; none of its files is looked at. Raises DataError."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {MANIFEST}: it is no checkpoint, or was never finished [LW605]") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error} [LW605]") from None
    try:
        found = json.loads(content)
        known = found.pop("format")
        found.pop("sha256", None)
        same = _signed({"format": FORMAT, **found}) == content
    except (AttributeError, TypeError, ValueError, KeyError, RecursionError):
        raise DataError(
            f"{path} is not what was written: it is no manifest; take an older checkpoint [LW605]"
        ) from None
    if known != FORMAT:
        raise DataError(
            f"{path} is of the format {str(known)[:40]!r}, expected {FORMAT!r}: read it with the lightwatch that wrote "
            "it [LW605]"
        )
    if not same:
        raise DataError(f"{path} is not what was written: its sha256 differs; take an older checkpoint [LW605]")
    try:
        return _built(found)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path} lacks what a checkpoint has: {error}; take an older checkpoint [LW605]") from None


def refuse_damaged(folder: Path, manifest: Manifest) -> None:
    """Raise DataError, naming the first file that is not what the manifest says, to the byte. Reads everything."""
    for file in manifest.files:
        path = folder / file.name
        try:
            size = path.stat().st_size
            if size != file.bytes:
                what = f"has {size:,} bytes, {file.bytes:,} were written"
            elif sha256_of_file(path) != file.sha256:
                what = "is not what was written: its sha256 differs"
            else:
                continue
        except FileNotFoundError:
            what = "is not there"
        except OSError as error:
            what = f"can't be read: {error.strerror or error}"
        raise DataError(f"{path} {what}; take an older checkpoint [LW605]")


def why_not_whole(folder: Path, manifest: Manifest) -> str | None:
    """The sentence with which `refuse_damaged` refuses; None if every byte is what was written."""
    try:
        refuse_damaged(folder, manifest)
    except DataError as error:
        return str(error)
    return None


def sha256_of_file(path: Path) -> str:
    """Of all its bytes, read one after the other. Raises OSError."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            sha.update(piece)
    return sha.hexdigest()


def _signed(body: Mapping[str, Any]) -> bytes:
    sha = hashlib.sha256(_dumped(body)).hexdigest()
    return _dumped({**body, "sha256": sha})


def _dumped(body: Mapping[str, Any]) -> bytes:
    """A line each: json's own indentation would take the interpreter's lock a hundred times as long."""
    lines = (f"{json.dumps(name)}: {json.dumps(body[name], sort_keys=True, allow_nan=False)}" for name in sorted(body))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _built(found: dict[str, Any]) -> Manifest:
    unknown = set(found) - {each.name for each in fields(Manifest)}
    if unknown:
        raise ValueError(f"{min(unknown)} is unknown")
    files = tuple(WrittenFile(str(name), int(size), str(sha256)) for name, size, sha256 in found["files"])
    if any(Path(file.name).name != file.name for file in files):
        raise ValueError("a file of it lies in another folder")
    tensors = {name: (str(dtype), tuple(shape)) for name, (dtype, shape) in found["tensors"].items()}
    return Manifest(**{**found, "files": files, "tensors": tensors, "spheres": tuple(found["spheres"])})
