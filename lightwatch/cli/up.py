"""`lightwatch up`: a run's control, for machines that join by one line each. No sphere is started here.

Control listens on the network, so the run has keys, drawn at once. A folder whose run has not ended goes on where its
ledger stands, with the spheres that are still there: in a container that is started anew it is the same run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import RunConfig, dumps, load, merge
from ..errors import ConfigError
from .conduct import conduct
from .elsewhere import elsewhere
from .folder import RunFolder, read_json
from .record import is_over
from .settings import Settings, judged_paths, settle_train
from .terminal import Terminal, spoken_count

ANYWHERE = "tcp://0.0.0.0:*"
EXIT = {"completed": 0, "stopped": 0}


def up(arguments: argparse.Namespace) -> int:
    """Judge all input, then run control until the run is over; the exit code. Raises ConfigError, DataError."""
    from control.record import read_record
    from control.tree import WAIT_FOR_MOST

    terminal = Terminal(json_only=arguments.json, quiet=arguments.quiet)
    if not 1 <= arguments.wait_for <= WAIT_FOR_MOST:
        raise ConfigError(f"--wait-for must be 1 to {WAIT_FOR_MOST}, got {arguments.wait_for} [LW002]")
    if arguments.machines < 0:
        raise ConfigError(f"--machines must be at least 0, got {arguments.machines} [LW002]")
    folder = _begun(arguments.dir)
    if folder is not None and is_over(folder):
        status = read_record(folder.ledger).status
        code, there = EXIT.get(status, 1), elsewhere(folder) if status != "completed" else ""
        over = f"{folder.path}: this run is over: {status}{'; ' if there else ''}{there}"
        terminal.complain(f"{over} [LW511]") if code else terminal.tell(over)
        return code
    settings = _settled(arguments) if folder is None else _taken_up(arguments, folder)
    training = settings.run.training
    wait_for = arguments.wait_for if folder is None else 0
    told = f"waits for {spoken_count(wait_for, 'sphere')}" if wait_for else "goes on"
    terminal.say(
        f"run {settings.folder.run_id}: {spoken_count(training.max_steps, 'step')}, {told}: {settings.folder.path}"
    )
    terminal.say(_spoken_data(settings))
    return conduct(settings, dumps(settings.run), terminal, log_level=arguments.log_level, debug=arguments.debug)


def _spoken_data(settings: Settings) -> str:
    """Which data the run is of: those that are here, or if they are not, what the first sphere proves."""
    data, text = settings.run.data, settings.text
    where = data.path or "the standard library's source"
    if not data.fingerprint:
        return f"data: {where}: not known on this machine, so what the first sphere has is what all others need"
    told = text.told if text is not None else where
    return f"data: {told}; a sphere must have these, fingerprint {data.fingerprint[:12]}, unless it runs a script"


def _begun(name: str | None) -> RunFolder | None:
    """The run that this folder holds, if it holds one. Whoever was killed may have left no more than its config: that
    is a run too, in which nothing has happened."""
    from control.errors import LedgerError
    from control.record import read_record

    folder = RunFolder(Path(name).absolute(), "") if name else None
    if folder is None or not folder.config.exists():
        return None
    if not folder.ledger.exists():
        return RunFolder(folder.path, RunFolder.new_id())
    try:
        return RunFolder(folder.path, read_record(folder.ledger).run_id)
    except LedgerError as error:
        raise ConfigError(str(error)) from None


def _settled(arguments: argparse.Namespace) -> Settings:
    """A new run. Its keys are drawn before control's address is judged, and go again if all is refused."""
    from dataclasses import replace

    from control.keys import Keys

    folder = RunFolder.choose(arguments.dir, "--dir")
    fresh = not Keys(folder.path).exist
    arguments.out, arguments.tree, arguments.profile = str(folder.path), f"*:{arguments.wait_for}", False
    arguments.listen = arguments.listen or ANYWHERE
    try:
        Keys.made(folder.path)
        settings = replace(settle_train(arguments, data_elsewhere=True), machines=arguments.machines)
    except OSError as error:
        raise ConfigError(f"{folder.path}: its keys can't be made: {error.strerror or error} [LW602]") from None
    except Exception:
        if fresh:
            _remove_keys(folder.path)
        raise
    if settings.text is None:
        return settings
    return replace(settings, run=merge(settings.run, data={"fingerprint": settings.text.fingerprint}))


def _taken_up(arguments: argparse.Namespace, folder: RunFolder) -> Settings:
    """A run that has begun, as it was begun, at the address at which its spheres look for control."""
    run = load(folder.config, RunConfig())
    card = read_json(folder.address) or {}
    run = merge(run, control={"listen": arguments.listen or str(card.get("address", run.control.listen))})
    paths, alone = judged_paths(run.control, folder)
    return Settings(run, paths, alone, folder, machines=arguments.machines, again=True)


def _remove_keys(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "keys", ignore_errors=True)
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return  # something else lies there
