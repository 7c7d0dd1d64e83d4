"""Crash points: named places where a process can be made to die by SIGKILL, to try what healing promises there.

`LIGHTWATCH_CRASH_POINT="NAME[@WHO][#N]"` in a run's environment kills whoever comes to the point NAME for the Nth time
(the first, if not said) and is WHO: a role (control, sphere, supervisor, template) or a sphere's path. It happens once
in a run: a file in the run's folder, made before the kill, says that it did, and disarms every later life.

Standard library only, for every process may use it. A point that is not armed costs a call and a comparison.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import SettingsError

VARIABLE = "LIGHTWATCH_CRASH_POINT"
MARK = "crash.json"
"""In the run's folder, once a point has killed: name, who, pid, at (unix seconds)."""

POINTS: dict[str, str] = {
    "control.ledger_opened": "the ledger has the new incarnation, no address is bound",
    "control.bound": "the address is bound, control.json does not say so yet",
    "control.announced": "control.json is written, nobody was heard",
    "control.before_commit": "facts are in a transaction of the ledger that is not committed",
    "control.after_commit": "facts are in the ledger, nobody was told of them",
    "control.metrics_written": "a version's line is in metrics.jsonl, its row not in the ledger",
    "control.before_view": "a sphere is about to be called to a generation",
    "control.after_view": "one sphere was called to a generation, the next was not",
    "control.before_go": "the ledger has a generation as begun, a sphere is about to be told to go",
    "control.after_go": "one sphere was told to go, the next was not",
    "control.before_seal": "all parts of a checkpoint are on the disk, its first writer is about to be told",
    "control.checkpoint_saved": "the ledger has a checkpoint as whole, a writer is about to be told",
    "control.before_end": "the ledger has the run's end, a sphere is about to be told",
    "control.after_end": "one sphere was told of the run's end, the next was not",
    "sphere.before_hello": "connected to control, nothing was said",
    "sphere.after_hello": "hello was said, there is no id yet",
    "sphere.v0_unflushed": "the checkpoint of version 0 is written aside, the disk may not have it",
    "sphere.v0_unnamed": "the disk has it, it does not bear its name",
    "sphere.v0_written": "it bears its name, control was not told Ready",
    "sphere.before_ready": "frozen for a roll call, control was not told what is held",
    "sphere.after_ready": "control is being told what is held",
    "sphere.before_groups": "told to go, no group is connected",
    "sphere.after_groups": "all groups are connected, nothing was done in them",
    "sphere.follows_record": "told to make a version from its record and own sums",
    "sphere.fetch_begins": "told to fetch a state, or to load version 0",
    "sphere.chunk_came": "a chunk of a state has come and is not kept",
    "sphere.before_handing_out": "a peer's wish for a state is about to be answered",
    "sphere.before_reduce": "a bucket is complete and about to leave",
    "sphere.bucket_summed": "a bucket was summed at one level of the tree",
    "sphere.before_tail": "all buckets are summed, the tail is about to be",
    "sphere.after_tail": "the tail is here, nothing was changed by it",
    "sphere.before_report": "the update is made, control was not told",
    "sphere.after_report": "control is being told of the version",
    "sphere.save_begins": "a checkpoint's share is copied, nothing of it is written",
    "sphere.part_written": "a part of a checkpoint is on the disk, control was not told",
    "sphere.before_seal": "all parts are on the disk, the manifest is about to be written",
    "sphere.sealed": "the manifest is on the disk, control was not told",
    "sphere.checkpoint_kept": "the ledger has the checkpoint, older ones are about to be removed",
    "sphere.before_closing_tail": "the last version is about to be agreed",
    "sphere.after_closing_tail": "the last version is agreed, here",
    "sphere.before_closed": "the model is written, control was not told that the training is over here",
    "sphere.after_closed": "control is being told that the training is over here",
    "supervisor.before_asking": "the former worker is dead, no other was asked for",
    "supervisor.after_asking": "a worker was asked for, the template has not answered",
    "supervisor.answered": "a worker was forked, and was told to the launcher",
    "template.before_fork": "a worker was asked for, none is forked",
    "template.after_fork": "a worker is forked, its supervisor does not know",
}
"""Every name with the place where it stands; each is used in the code exactly once."""

_TEXT = re.compile(r"(?P<name>[^@#]+)(@(?P<who>[^@#]+))?(#(?P<nth>[1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class Point:
    """What the variable asks for. who: a role or a path; empty: whoever comes first."""

    name: str
    who: str = ""
    nth: int = 1

    @property
    def text(self) -> str:
        """As the variable spells it."""
        return self.name + (f"@{self.who}" if self.who else "") + (f"#{self.nth}" if self.nth > 1 else "")


@dataclass
class _Armed:
    point: Point
    mark: Path
    who: str
    left: int


_armed: _Armed | None = None


def parse_point(text: str) -> Point:
    """Raises SettingsError for what is no point, or one that there is not."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise SettingsError(f"crash point {text[:60]!r}: write NAME, NAME@WHO, NAME#N or NAME@WHO#N [LW002]")
    if found["name"] not in POINTS:
        raise SettingsError(
            f"crash point {found['name'][:60]!r} is not known; `lightwatch chaos --list-crash-points` lists all [LW002]"
        )
    return Point(found["name"], found["who"] or "", int(found["nth"] or 1))


def arm(folder: Path, role: str, path: str = "") -> None:
    """Say who this process is, once, at its beginning; after a fork the child says so anew.

    folder: the run's. role: control, sphere, supervisor or template. Raises SettingsError for a wrong variable.
    """
    global _armed
    text = os.environ.get(VARIABLE, "")
    point = parse_point(text) if text else None
    mark = folder / MARK
    mine = point is not None and point.who in ("", role, path) and not mark.exists()
    _armed = _Armed(point, mark, path or role, point.nth) if point and mine else None


def here(name: str) -> None:
    """This is the point `name`: die, if that is what was asked for."""
    if _armed is not None and _armed.point.name == name:
        _reached(_armed)


def _reached(armed: _Armed) -> None:
    armed.left -= 1
    if armed.left:
        return
    try:
        mark = os.open(armed.mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return  # another process came first
    fired = {"name": armed.point.name, "who": armed.who, "pid": os.getpid(), "at": time.time()}
    os.write(mark, json.dumps(fired).encode())
    os.kill(os.getpid(), signal.SIGKILL)
