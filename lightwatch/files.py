"""Files that readers see whole or not at all. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: bytes, passing: Callable[[str], object] = lambda _: None) -> None:
    """Write a file aside, flush it to the disk and rename it: readers see the old one or the new one, never a part.

    passing: called between these, with "written" and "flushed".
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            passing("written")
            os.fsync(file.fileno())
        passing("flushed")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
