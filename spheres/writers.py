"""Who writes a checkpoint of a tree, and what one of them has to say to control, and to hear, until it is whole.

Laws
  1. The writers are the spheres of one host, for a host has one disk; on the same members everybody names the same.
  2. A save is named by the generation in which it began and its version; the files of no other save bear its mark.
  3. All waiting is done in the thread that writes. It ends by control's word, by the run's end, or with this process;
     with control dead it lasts until there is one again, and meanwhile no other save begins.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from control.crash import here
from control.protocol import Generation, Member, Part, SaveOver, SaveState, Saving, Seal, View
from lightwatch.errors import LightwatchError
from lightwatch.manifest import Manifest, WrittenFile
from lightwatch.saver import SaveLost, Sealing
from lightwatch.sync import Position

from .link import Link
from .state import Heard

T = TypeVar("T")
FOREVER_S = 3e7


def writers_of(members: Sequence[Member], at: str = "") -> list[int]:
    """The spheres that write, in tree order: those under the path `at`, or if there are none, or it is empty, those on
    the first member's host."""
    wanted = [member.sphere for member in members if at and _is_under(member.path, at)]
    return wanted or [member.sphere for member in members if _host(member.path) == _host(members[0].path)]


def _is_under(path: str, at: str) -> bool:
    return path == at or path.startswith(f"{at}/")


def _host(path: str) -> str:
    return path.rpartition("/")[0]


class TreeWriters:
    """One save, as one of its writers sees it. The form on a tree of `lightwatch.saver.Writers`."""

    def __init__(self, link: Link, ids: list[int], generation: Generation, position: Position, saves: int) -> None:
        self.index = ids.index(link.heard.sphere)
        self.count = len(ids)
        self.mark = f"{generation[0]}.{generation[1]}"
        self._link = link
        self._ids = ids
        self._key = (generation, position.version)
        self._lineage = position.lineage
        self._saves = saves
        self._folder = ""
        self._part: Part | None = None
        self._ended = threading.Event()

    def begun(self, folder: str) -> None:
        self._folder = folder
        here("sphere.save_begins")
        self._say(SaveState.WRITING)

    def written(self, part: WrittenFile) -> Sealing | None:
        here("sphere.part_written")
        self._part = Part(name=part.name, bytes=part.bytes, sha256=part.sha256)
        self._say(SaveState.WRITTEN)
        try:
            told = self._wait(self._seal_or_over)
        except LightwatchError as error:
            raise SaveLost(f"not all parts were on the disk when this sphere left: {error}") from None
        if isinstance(told, SaveOver):
            if not told.kept:
                raise SaveLost("control gave it up [LW608]")
            return None
        assert isinstance(told, Seal)
        here("sphere.before_seal")
        files = [WrittenFile(each.name, each.bytes, each.sha256) for each in told.parts]
        return Sealing(files, {"control": told.control, "spheres": tuple(json.loads(told.spheres))})

    def sealed(self, manifest: Manifest, sha256: str) -> None:
        here("sphere.sealed")
        self._say(SaveState.SEALED, digest=manifest.digest, manifest_sha256=sha256)
        try:
            over = self._wait(self._over)
        except LightwatchError:
            return  # it is whole, whether control knows or not
        if not over.kept:
            raise SaveLost("control gave it up [LW608]")
        here("sphere.checkpoint_kept")

    def failed(self, why: str) -> None:
        self._say(SaveState.FAILED, why=why)

    def over(self) -> None:
        self._ended.set()

    def wait_until_over(self, timeout_s: float) -> bool:
        """Whether nothing more is done for this save here, after so long at most."""
        return self._ended.wait(timeout_s)

    def _say(self, state: SaveState, **facts: str) -> None:
        generation, version = self._key
        saving = Saving(
            generation=generation, lineage=self._lineage, version=version, folder=self._folder, writers=self._ids,
            state=state, saves=self._saves, part=self._part, **facts,
        )  # fmt: skip
        try:
            self._link.send(saving)
        except LightwatchError:
            pass  # this process is about to end: control knows that better than it could be told

    def _wait(self, pick: Callable[[Heard], T | None]) -> T:
        return self._link.wait(pick, FOREVER_S, "with the end of a save")

    def _seal_or_over(self, heard: Heard) -> Seal | SaveOver | None:
        over, seal = self._over(heard), heard.seal
        if over is None and seal is not None and self.index == 0 and (seal.generation, seal.version) == self._key:
            return seal
        return over

    def _over(self, heard: Heard) -> SaveOver | None:
        over = heard.over
        return over if over is not None and (over.generation, over.version) == self._key else None


class Saves:
    """The saves that one sphere takes part in. at: the path of the host that writes; empty: the first one's."""

    def __init__(self, link: Link, at: str = "") -> None:
        self._link = link
        self._at = at
        self._newest: TreeWriters | None = None

    def begin(self, view: View, position: Position, saves: int) -> TreeWriters | None:
        """A checkpoint is due; None if others write it. saves: as in control's word Saving."""
        ids = writers_of(view.members, self._at)
        if self._link.heard.sphere not in ids:
            return None
        self._newest = TreeWriters(self._link, ids, view.generation, position, saves)
        return self._newest

    def wait_until_over(self, timeout_s: float) -> None:
        """Give what is in flight so long to come to its end, or to be cleaned away."""
        if self._newest is not None:
            self._newest.wait_until_over(timeout_s)
