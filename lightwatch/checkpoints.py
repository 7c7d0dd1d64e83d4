"""The folder of a run's checkpoints: which are there, which is the newest whole one, which may go. No torch here.

Each checkpoint is a folder: `step-<version>`, or a name that a user gave. Several processes may write parts into it;
their files are called `<run>-<mark>-<n>-of-<count>.safetensors`, where the mark is one save's own, so that a save that
died never stands in the way of the next, nor of another run's in the same folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError, DataError
from .files import flush_folder
from .manifest import MANIFEST, Manifest, read_manifest, refuse_damaged, why_not_whole

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Found:
    """A checkpoint's folder, and its manifest; None, and why, if that can't be read."""

    path: Path
    manifest: Manifest | None
    why: str = ""


@dataclass(frozen=True)
class Newest:
    """The newest whole checkpoint, if there is one, and what was passed over on the way: a sentence each."""

    path: Path | None
    manifest: Manifest | None
    skipped: tuple[str, ...]


# ------------------------------------------------------------ names


def step_folder(folder: Path, version: int, run: str) -> Path:
    """Where this run's checkpoint of that version goes: never over another run's."""
    plain = folder / f"step-{version}"
    try:
        return plain if read_manifest(plain).run == run else folder / f"step-{version}-{run}"
    except DataError:
        return plain


def named_folder(folder: Path, name: str) -> Path:
    """Where a checkpoint with a name of one's own goes. Raises ConfigError."""
    if not _NAME.fullmatch(name) or name.startswith("step-"):
        raise ConfigError(
            f"a checkpoint's name must be 1 to 64 letters, digits, dots, dashes and underscores, and not begin with "
            f"step-, got {name[:80]!r} [LW002]"
        )
    return folder / name


@dataclass(frozen=True)
class Attempt:
    """One save into the folder `path`. mark: that of all who write parts of it, and of no other save of this run."""

    path: Path
    run: str
    mark: str

    @property
    def prefix(self) -> str:
        """What the names of all its parts begin with."""
        return f"{self.run}-{self.mark}-"

    def part(self, index: int = 0, count: int = 1) -> str:
        """The file of one of `count` parts."""
        return f"{self.prefix}{index + 1}-of-{count}.safetensors"


# ------------------------------------------------------------ what is there


def checkpoints_in(folder: Path) -> list[Found]:
    """All that have a manifest, the oldest first, those that can't be read before all. Hashes nothing."""
    found = []
    for path in _folders(folder):
        if os.path.lexists(path / MANIFEST):
            try:
                found.append(Found(path, read_manifest(path)))
            except DataError as error:
                found.append(Found(path, None, str(error)))
    return sorted(found, key=lambda each: (each.manifest.age if each.manifest else (-1, -1), each.path.name))


def newest_whole(folder: Path, run: str | None = None, counts: Callable[[Manifest], bool] = lambda _: True) -> Newest:
    """The newest one whose every byte is what was written. Reads as much of the disk as that takes, and no more.

    run: only this run's. counts: and only those that it says yes to. Raises DataError if there are those of several
    runs and none was named.
    """
    found = checkpoints_in(folder)
    runs = sorted({each.manifest.run for each in found if each.manifest})
    if run is None and len(runs) > 1:
        raise DataError(
            f"{folder} holds checkpoints of several runs ({', '.join(runs)}); name one of the folders in it [LW606]"
        )
    skipped = [each.why for each in found if each.manifest is None]
    for each in reversed(found):
        if each.manifest is None or run not in (None, each.manifest.run) or not counts(each.manifest):
            continue
        why = why_damaged(each)
        if why is None:
            return Newest(each.path, each.manifest, tuple(skipped))
        skipped.append(why)
    return Newest(None, None, tuple(skipped))


def chosen(path: Path, run: str | None = None) -> Newest:
    """The checkpoint meant by `path`, which is whole: that folder itself, or the newest in it.

    Raises DataError if there is none, with why those that are there are not.
    """
    if os.path.lexists(path / MANIFEST):
        manifest = read_manifest(path)
        refuse_damaged(path, manifest)
        return Newest(path, manifest, ())
    found = newest_whole(path, run)
    if found.manifest is None:
        reasons = "; ".join(found.skipped) or "it holds none"
        raise DataError(f"{path}: there is no whole checkpoint to go on from: {reasons} [LW606]")
    return found


def why_damaged(found: Found) -> str | None:
    """Hash everything in it again: the sentence if a byte of it is not what was written."""
    return found.why if found.manifest is None else why_not_whole(found.path, found.manifest)


# ------------------------------------------------------------ what goes


def prune(folder: Path, run: str, most: int) -> list[Path]:
    """Remove this run's oldest checkpoints until `most` are left, and never the newest whole one; those removed.

    most: 0 keeps all. Those with a name of their own stay, and don't count; nor do those that can't be read. Raises
    OSError.
    """
    if not most:
        return []
    found = checkpoints_in(folder)
    own = [each for each in found if each.manifest and each.manifest.run == run and is_of_a_step(each.path)]
    old = own[:-most]
    if not old:
        return []
    whole = next((each for each in reversed(own) if why_damaged(each) is None), None)
    gone = [each.path for each in old if each is not whole]
    for path in gone:
        remove(path)
    return gone


def is_of_a_step(path: Path) -> bool:
    """Whether it was named after its version, and not by a user."""
    return path.name.startswith("step-")


def remove(path: Path) -> None:
    """Remove a checkpoint, the manifest first: whoever dies on the way leaves no half of one. Raises OSError."""
    names = []
    with contextlib.suppress(DataError):
        names = [file.name for file in read_manifest(path).files]
    (path / MANIFEST).unlink()
    flush_folder(path)
    for name in names:
        (path / name).unlink(missing_ok=True)
    _remove_if_empty(path)


def sweep(folder: Path, run: str, now: Attempt | None = None) -> list[Path]:
    """Remove what saves of this run left that died or were given up; the files removed.

    now: the save that is being written, whose files stay. Whatever another run wrote stays too. Raises OSError.
    """
    gone = []
    for path in _folders(folder):
        suspects = [file for file in _files(path) if _may_be_left(file, run, now)]
        for file in suspects if _has_leftovers(path, suspects) else []:
            if file.name not in _named(path):
                file.unlink(missing_ok=True)
                gone.append(file)
        if now is None or now.path != path:
            _remove_if_empty(path)
    return gone


def give_up(attempt: Attempt, part: str = "") -> None:
    """Take away what a save that can't be finished has written. Raises OSError.

    part: the one that was written here, if others write theirs. Those stay then, and so does the folder, for another
    may be about to put its part there and would take the loss for a fault of its own; the next sweep has them.
    """
    if attempt.path.is_dir():
        for file in sorted(attempt.path.iterdir()):
            if file.name.removeprefix(".").startswith(part or attempt.prefix) and file.name not in _named(attempt.path):
                file.unlink(missing_ok=True)
        if not part:
            _remove_if_empty(attempt.path)


def _may_be_left(file: Path, run: str, now: Attempt | None) -> bool:
    """Whether, unless a manifest names it, only a dead save of this run can have left it."""
    name = file.name.removeprefix(".")
    of_run = name.startswith(f"{run}-") and not (now and name.startswith(now.prefix))
    return of_run or file.name.startswith(f".{MANIFEST}.")


def _has_leftovers(path: Path, suspects: list[Path]) -> bool:
    """False for the files of one save beside a manifest, which must be its own: most folders are so, and not read."""
    saves = {file.name.rsplit("-", 3)[0] for file in suspects}
    aside = any(file.name.startswith(".") for file in suspects)
    return aside or len(saves) > 1 or not os.path.lexists(path / MANIFEST)


def _named(path: Path) -> set[str]:
    """The files that a manifest in this folder names; all of them, if it can't be read: nobody knows what it needs."""
    if not os.path.lexists(path / MANIFEST):
        return set()
    try:
        return {MANIFEST, *(file.name for file in read_manifest(path).files)}
    except DataError:
        return {file.name for file in path.iterdir()}


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return


def _files(path: Path) -> list[Path]:
    """Of a folder that another writer may be removing."""
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # something of somebody else's lies there: it stays
    flush_folder(path.parent)
