"""Files that readers see whole or not at all. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_aside(path: Path, passing: Callable[[str], object] = lambda _: None) -> Iterator[BinaryIO]:
    """A file to be written, which gets its name, flushed to the disk, when the block ends: readers see the old one or
    the new one, never a part.

    passing: called between these, with "written" and "flushed".
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            passing("written")
            os.fsync(file.fileno())
        passing("flushed")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_whole(path: Path, content: bytes, passing: Callable[[str], object] = lambda _: None) -> None:
    """Write a file as `written_aside` does, at once."""
    with written_aside(path, passing) as file:
        file.write(content)


def flush_folder(path: Path) -> None:
    """What was made, renamed or removed in it stays so after a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
