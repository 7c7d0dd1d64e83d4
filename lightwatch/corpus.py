"""Text on disk: find it, read it once, set part of it aside for evaluation, refuse what can't be trained on.

Standard library only: the launcher judges the user's path with it before anything is started. It is held in memory
as a whole, so a corpus costs its size in every process (and as much again for the tensor made of it).

Whole files are held out, chosen by the hash of their names: the same on every machine, and no neighbouring sentence of
a held-out one is ever trained on. A single file gives its end instead.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import DataError

HELD_OUT_ONE_IN = 20  # 5%, of the files or of a single file's bytes
# Not the language's own source, or not the same on two machines with the same Python.
STANDARD_LIBRARY_WITHOUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "ensurepip", "site-packages", "dist-packages", "__pycache__"}
)

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Corpus:
    """Text in two parts that share no file. `text` is trained on, `held_out` only evaluated.

    The parts are their files' bytes, in the order of the files' names, with nothing between.
    """

    text: bytes
    held_out: bytes
    files: tuple[str, ...]  # names below the given folder, of the training part
    held_out_files: tuple[str, ...]  # the same name as in `files` if a single file was cut in two
    skipped: int  # binary files that were found and left out

    @staticmethod
    def read(source: Source = "", sequence_length: int = 128) -> Corpus:
        """Read a file, a folder, a glob pattern or a list of files; "" is the standard library's own source.

        In a folder or a pattern binary files (with NUL bytes) and hidden ones are left out; named ones are refused.
        Nothing is held out if either part would be shorter than a sample of sequence_length + 1 bytes.
        Raises DataError.
        """
        found, named = _find(source)
        contents, skipped = _contents(found, named)
        size = sum(len(content) for content in contents.values())
        where = _spoken(source)
        if not contents or size == 0:
            but = f" ({skipped} binary files left out)" if skipped else ""
            raise DataError(
                f"{where} holds no text{but}: name a text file, or a folder or pattern that holds some [LW102]"
            )
        least = sequence_length + 1
        if size < least:
            raise DataError(
                f"{where} holds {size} bytes of text, a sample needs {least} (sequence_length {sequence_length} + 1): "
                f"give more text or a shorter data.sequence_length [LW102]"
            )
        return _split(contents, skipped, least)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over both parts: equal wherever the bytes and their split are, whatever the folder is called."""
        digest = hashlib.sha256(len(self.text).to_bytes(8, "little"))
        digest.update(self.text)
        digest.update(self.held_out)
        return digest.hexdigest()

    def fingerprint_of(self, part: str, sequence_length: int) -> str:
        """sha256 over both parts, the sequence length and which part this is: what a sphere proves of its data."""
        return hashlib.sha256(f"{self.fingerprint} {sequence_length} {part}".encode()).hexdigest()

    def __str__(self) -> str:
        skipped = f", {self.skipped} binary files left out" if self.skipped else ""
        return (
            f"{_files(self.files)}, {len(self.text)} bytes to train on; {_files(self.held_out_files)}, "
            f"{len(self.held_out)} bytes held out{skipped}; sha256 {self.fingerprint[:12]}"
        )


def refuse_absent(source: Source) -> None:
    """Raise DataError if no file is there, or one that may not be read. Looks at names, and reads nothing."""
    found, _ = _find(source)
    if not found:
        raise DataError(
            f"{_spoken(source)} holds no file: name a text file, or a folder or pattern that holds some [LW102]"
        )
    for path in found.values():
        if not os.access(path, os.R_OK):
            raise DataError(f"the data file {_spoken(path)} can't be read: {os.strerror(errno.EACCES)} [LW101]")


def is_there(path: str) -> bool:
    """Whether anything is at this path or matches it as a pattern, be it no text; "" is on every machine."""
    return path == "" or os.path.exists(path) or bool(glob.glob(path, recursive=True))


def refuse_other(source: Source, fingerprint: str, wanted: str) -> None:
    """Raise DataError unless the data have the fingerprint that the run wants; an empty one: any will do."""
    if wanted and fingerprint != wanted:
        raise DataError(
            f"{_spoken(source)} holds other data than the run's: expected fingerprint {wanted[:12]}, got "
            f"{fingerprint[:12]}; put a copy of the run's own files there, or name one with --data PATH [LW106]"
        )


def _find(source: Source) -> tuple[dict[str, Path], bool]:
    """The files by their names below what was given, and whether each was named (and so must be text)."""
    if not isinstance(source, str | os.PathLike):
        paths = [Path(one) for one in source]
        for path in paths:
            _refuse_missing(path)
        base = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
        return {path.absolute().relative_to(base).as_posix(): path for path in paths}, True
    text = os.fspath(source)
    if text == "":
        return _standard_library(), False
    if "\0" in text:
        raise DataError("the data path holds a NUL character: no file has such a name [LW101]")
    path = Path(text)
    if path.is_dir():
        return _below(path), False
    if not path.exists() and glob.has_magic(text):
        return _matching(text), False
    _refuse_missing(path)
    return {path.name: path}, True


def _refuse_missing(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(f"the data path {_spoken(path)} can't be read: {reason} [LW101]") from None
    if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
        raise DataError(f"the data path {_spoken(path)} is not a file: name a text file, a folder or a pattern [LW101]")


def _below(folder: Path, *, suffix: str = "", without: frozenset[str] = frozenset()) -> dict[str, Path]:
    """All files below a folder but hidden ones; links to folders are not followed, for they may form a circle."""
    found: dict[str, Path] = {}

    def refuse(error: OSError) -> None:
        raise DataError(f"the folder {_spoken(error.filename)} can't be read: {error.strerror} [LW101]") from None

    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name not in without and not name.startswith(".")]
        for name in files:
            path = Path(here, name)
            if name.endswith(suffix) and not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    return found


def _standard_library() -> dict[str, Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    found = _below(folder, suffix=".py", without=STANDARD_LIBRARY_WITHOUT) if folder.is_dir() else {}
    # How this one interpreter was built says nothing about the language.
    found = {name: path for name, path in found.items() if not name.startswith("_sysconfigdata")}
    if not found:
        raise DataError(
            f"this Python has no source of its standard library at {_spoken(folder)}: give a data path [LW101]"
        )
    return found


def _matching(pattern: str) -> dict[str, Path]:
    """The files that match; their names are counted from the pattern's folder, the part before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    found = [Path(match) for match in glob.glob(pattern, recursive=True)]
    return {path.relative_to(base).as_posix(): path for path in found if path.is_file()}


def _contents(found: dict[str, Path], named: bool) -> tuple[dict[str, bytes], int]:
    """The text of each file in the order of the names' bytes, and how many binary files were left out."""
    contents: dict[str, bytes] = {}
    skipped = 0
    for name in sorted(found, key=os.fsencode):
        try:
            content = found[name].read_bytes()
        except OSError as error:
            raise DataError(f"the data file {_spoken(found[name])} can't be read: {error.strerror} [LW101]") from None
        if b"\0" not in content:
            contents[name] = content
        elif named:
            at = content.index(b"\0")
            raise DataError(f"the data file {_spoken(found[name])} is not text: it has a NUL byte at {at} [LW101]")
        else:
            skipped += 1
    return contents, skipped


def _split(contents: dict[str, bytes], skipped: int, least: int) -> Corpus:
    names = list(contents)
    if len(names) == 1:
        whole = contents[names[0]]
        cut = len(whole) - len(whole) // HELD_OUT_ONE_IN
        text, held_out, kept, aside = whole[:cut], whole[cut:], names, names
    else:
        kept = [name for name in names if not is_held_out(name)]
        aside = [name for name in names if is_held_out(name)]
        text, held_out = _joined(contents, kept), _joined(contents, aside)
    if min(len(text), len(held_out)) < least:
        text, held_out, kept, aside = _joined(contents, names), b"", names, []
    return Corpus(text, held_out, tuple(kept), tuple(aside), skipped)


def is_held_out(name: str) -> bool:
    """Whether the file of this name (below the given folder, with forward slashes) is only evaluated, never trained."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0


def _joined(contents: dict[str, bytes], names: Iterable[str]) -> bytes:
    return b"".join(contents[name] for name in names)


def _spoken(source: Source) -> str:
    if source == "":
        return "the standard library's source"
    if isinstance(source, str | os.PathLike):
        return ascii(os.fspath(source)) if not str(source).isprintable() else f"'{os.fspath(source)}'"
    return f"the list of {len(source)} files"


def _files(names: Sequence[str]) -> str:
    return f"{len(names)} file{'' if len(names) == 1 else 's'}"
