"""`lightwatch train --resume DIR`: a run goes on in its own folder, from its newest whole checkpoint.

Config, seed and data are those of the folder; what is given again must agree. Everything is judged before anything in
the folder is changed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..checkpoints import newest_whole
from ..config import RunConfig, dumps, load, merge
from ..errors import ConfigError
from .before import Before, is_of_a_script, so_far
from .closing import tell_end
from .conduct import conduct
from .elsewhere import elsewhere
from .folder import RunFolder, existing_run, read_json
from .record import OVERRIDES, facts_from_ledger
from .rows import bytes_up_to, read_rows
from .settings import (
    Point,
    Settings,
    control_flags,
    judged_paths,
    read_text,
    refuse_busy_port,
    refuse_clashing_logs,
    refuse_full_disk,
    training_flags,
)
from .summary import summarise
from .terminal import Terminal
from .verdict import Ended

MAY_CHANGE = ("max_steps",)
"""What --override may change: it says nothing about what was done so far."""


def resume(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Judge all input, then go on; the exit code. A finished run tells its end again."""
    folder = existing_run(arguments.resume)
    own = own_config(folder)
    run = as_asked(own, arguments)
    changed = run.training.max_steps != own.training.max_steps
    before = so_far(folder)
    folder = RunFolder(folder.path.absolute(), before.run_id)
    settings = settle(folder, run, arguments)
    if before.status == "completed" and not changed:
        return tell_again(settings, terminal)
    point = newest(settings, before)
    if point.path is None and (there := elsewhere(folder)):
        raise ConfigError(f"{folder.path}: nothing to go on from is here: {there} [LW606]")
    if changed:
        point = replace(point, lineage=before.lineage + 1)
        refuse_what_is_past(point, run)
    lost = not folder.ledger.exists()
    note_start(folder, point, own, run)
    for sentence in point.skipped:
        terminal.say(f"passed over: {sentence}")
    where = f"from version {point.version} ({point.path.name})" if point.path else "from version 0: nothing was saved"
    terminal.say(f"run {before.run_id} goes on {where}; it ends at version {run.training.max_steps}")
    if changed:
        was = own.training.max_steps
        terminal.say(f"overridden: max_steps was {was}; from version {point.version} on the schedule is the new one's")
    if lost:  # nobody knows what was told of later versions: they are made, and told, anew
        cut_back(folder.metrics, point.version)
    settings = replace(settings, point=point)
    return conduct(settings, dumps(settings.run), terminal, log_level=arguments.log_level, debug=arguments.debug)


def own_config(folder: RunFolder) -> RunConfig:
    """The run's own. Raises ConfigError for a script's run: its model and data are not known here."""
    run = load(folder.config, RunConfig())
    if is_of_a_script(folder):
        raise ConfigError(
            f"{folder.path}: a script was run there, whose model and data are its own; let the script call "
            f"Trainer.restore({str(folder.path / run.training.checkpoint_dir)!r}) [LW607]"
        )
    return run


def as_asked(run: RunConfig, arguments: argparse.Namespace) -> RunConfig:
    """The run's own config, or with --override one that differs where it may. Raises ConfigError, naming each setting
    that is given again as another one. The tree may always differ."""
    if arguments.out is not None:
        raise ConfigError("--resume goes on in the run's own folder: leave --out away [LW001]")
    given = run if arguments.config is None else load(Path(arguments.config), run)
    given = merge(given, training=training_flags(arguments))
    if arguments.data is not None:
        given = merge(given, data={"path": os.path.abspath(arguments.data) if arguments.data else ""})
    found = {
        name: f"{name} was {old!r} and is given as {new!r}"
        for section in ("training", "model", "data")
        for name, old, new in _both(asdict(getattr(run, section)), asdict(getattr(given, section)))
        if old != new
    }
    fixed = [sentence for name, sentence in found.items() if name not in MAY_CHANGE]
    if fixed:
        raise ConfigError(
            f"the run is another one than was asked for: {'; '.join(found.values())}; leave that away or begin a new "
            f"run: not even --override changes {'that' if len(found) == 1 else 'all of it'} [LW607]"
        )
    if found and not arguments.override:
        raise ConfigError(
            f"the run is another one than was asked for: {'; '.join(found.values())}; leave that away, or give "
            "--override: from its newest checkpoint on it then counts, and the bits are others [LW607]"
        )
    return given


def refuse_what_is_past(point: Point, run: RunConfig) -> None:
    """An override counts from a checkpoint on. Raises ConfigError if there is none, or it is beyond the new end."""
    most = run.training.max_steps
    if point.path is None:
        raise ConfigError("nothing was saved from where another max_steps could count: begin a new run [LW607]")
    if 0 <= most <= point.version:
        raise ConfigError(f"--steps {most}: the run is at version {point.version} already; give more [LW607]")


def settle(folder: RunFolder, run: RunConfig, arguments: argparse.Namespace) -> Settings:
    """Everything that a new run's settings are judged by, but for its folder."""
    run = merge(run, control=control_flags(arguments))
    paths, alone = judged_paths(run.control, folder)
    refuse_clashing_logs(paths)
    if not alone:
        refuse_busy_port(run.control.listen)
    refuse_full_disk(folder.path, run.model)
    return Settings(run, paths, alone, folder, read_text(run), profile=arguments.profile)


def note_start(folder: RunFolder, point: Point, before: RunConfig, now: RunConfig) -> None:
    """Note in the ledger what was overridden. Raises ConfigError if another process writes it; its incarnation rises by
    one."""
    from control.errors import LedgerError
    from control.ledger import Ledger

    try:
        with Ledger.open(folder.ledger, folder.run_id) as ledger:
            if point.lineage is not None:
                kept = [each for each in ledger.get(OVERRIDES) or [] if each["version"] < point.version]
                was, now_is = before.training.max_steps, now.training.max_steps
                change = {"version": point.version, "lineage": point.lineage, "max_steps": [was, now_is]}
                ledger.set(OVERRIDES, [*kept, change])
    except LedgerError as error:
        raise ConfigError(str(error)) from None


def newest(settings: Settings, before: Before) -> Point:
    """Where the run goes on: its newest whole checkpoint that is on the way to where it stood."""
    found = newest_whole(
        settings.folder.path / settings.run.training.checkpoint_dir,
        settings.folder.run_id,
        before.came_by,
    )
    return Point(found.path, found.manifest.version if found.manifest else 0, found.skipped)


def cut_back(metrics: Path, version: int) -> None:
    """Nothing is told of later versions. Raises ConfigError if the disk refuses."""
    try:
        if metrics.exists():
            os.truncate(metrics, bytes_up_to(metrics, version))
    except OSError as error:
        raise ConfigError(f"{metrics} can't be cut back: {error.strerror or error} [LW602]") from None


def tell_again(settings: Settings, terminal: Terminal) -> int:
    """The summary of a run that is over; made anew from the ledger if whoever wrote it was killed."""
    summary: dict[str, Any] | None = read_json(settings.folder.summary)
    if summary is None:
        facts = facts_from_ledger(settings, Ended(), ())
        summary = summarise(settings, facts, read_rows(settings.folder.metrics), 0.0)
    tell_end(terminal, settings.folder, summary)
    terminal.emit(summary)
    return 0


def _both(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, old[name], new[name]) for name in old]
