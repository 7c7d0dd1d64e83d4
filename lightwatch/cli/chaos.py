"""`lightwatch chaos`: the same training twice, in peace and with faults, and whether the bits are the same."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import PRESET, dumps, load, merge
from ..errors import ConfigError, LightwatchError
from ..files import write_whole
from .chaos_injector import Injector
from .chaos_measure import costs, versions_while_dead, work
from .chaos_plan import NO_FAULTS, Counts, Fault, make_plan
from .chaos_records import read_checks, read_made, read_noted
from .chaos_report import Outcome, Progress, as_object, first_difference, table
from .chaos_run import Trained, follow
from .folder import RUNS, RunFolder
from .rows import read_rows
from .signals import Signals
from .terminal import Terminal, spoken_count

if TYPE_CHECKING:
    from control.crash import Point

DONE, BROKEN, USAGE = 0, 1, 2
SAVE_EVERY = 5
"""Versions from one checkpoint to the next."""


def chaos(arguments: argparse.Namespace) -> int:
    """Judge all input, run twice, compare; the exit code. Raises ConfigError, KeyboardInterrupt, LightwatchError."""
    terminal = Terminal(json_only=arguments.json, quiet=arguments.quiet)
    if arguments.list_crash_points:
        return list_points(terminal)
    if sys.platform != "linux":
        raise ConfigError(f"chaos knows processes by /proc and pidfd, so it needs Linux, got {sys.platform} [LW704]")
    counts, point = chosen_counts(arguments), _point(arguments.crash_point)
    paths = _paths(arguments.tree)
    plan = make_plan(arguments.seed, paths, arguments.steps, counts)
    folder = _folder(arguments.out)
    pair = Pair(arguments, folder, Progress(terminal, arguments.steps))
    with Signals() as signals:
        clean = pair.run("clean", (), paths, 0.0, signals)
        if not clean.is_well:
            if clean.code == USAGE:
                raise ConfigError(pair.last_word("clean"))
            raise LightwatchError(f"the clean run failed, so there is nothing to compare with: {clean.reason} [LW902]")
        step_s = pair.clean_step_s()
        faults = spoken_count(len(plan), "fault")
        terminal.say(f"clean: {arguments.steps} versions, {step_s:.3f} s a step; now the same with {faults}")
        ended = pair.run("chaos", plan, paths, step_s, signals, point.text if point else "")
    outcome = pair.outcome(clean, ended, len(plan) + (point is not None))
    found = as_object(outcome)
    write_whole(folder.path / "chaos.json", (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    for line in table(outcome):
        terminal.tell(line)
    for sentence in outcome.broken:
        terminal.complain(sentence)
    terminal.say(f"both runs are in {folder.path}")
    terminal.emit(found)
    return BROKEN if outcome.broken else DONE


def list_points(terminal: Terminal) -> int:
    """All crash points, one a line."""
    from control.crash import POINTS

    width = max(map(len, POINTS), default=0)
    for name, place in POINTS.items():
        terminal.tell(f"{name:<{width}}  {place}")
    terminal.emit(POINTS)
    return DONE


def chosen_counts(arguments: argparse.Namespace) -> Counts:
    """The counts that were typed over the defaults; beside a crash point, over none at all."""
    base = Counts() if arguments.crash_point is None else NO_FAULTS
    given = {each.name: getattr(arguments, each.name) for each in fields(Counts)}
    return replace(base, **{name: count for name, count in given.items() if count is not None})


def config_of(arguments: argparse.Namespace) -> str:
    """The complete set for both runs: as `train` would take it, but that saves come often, unless a file says when.
    Raises ConfigError."""
    run = PRESET if arguments.config is None else load(Path(arguments.config), PRESET)
    if run.training.save_interval == PRESET.training.save_interval:
        run = merge(run, training={"save_interval": SAVE_EVERY})
    return dumps(run)


class Pair:
    """The two runs, in folders side by side."""

    def __init__(self, arguments: argparse.Namespace, folder: RunFolder, progress: Progress) -> None:
        self._arguments = arguments
        self._folder = folder
        self._progress = progress
        self._struck: Injector | None = None
        self._config = folder.path / "chaos.toml"
        write_whole(self._config, config_of(arguments).encode())

    def run(
        self,
        name: str,
        plan: tuple[Fault, ...],
        paths: tuple[str, ...],
        step_s: float,
        signals: Signals,
        armed: str = "",
    ) -> Trained:
        """One of the two, to its end. Raises KeyboardInterrupt."""
        folder = RunFolder(self._folder.path / name, "")
        self._progress.name = name
        self._struck = Injector(plan, folder, paths, step_s, self._progress.fault)
        try:
            return follow(folder, self._flags(), self._struck, signals, self._progress.version, armed)
        finally:
            self._progress.end()

    def clean_step_s(self) -> float:
        """What a step takes in peace: the middle one."""
        steps_s = sorted(row["step_s"] for row in read_rows(self._of("clean").metrics) if row.get("step_s"))
        return float(steps_s[len(steps_s) // 2]) if steps_s else 0.0

    def last_word(self, name: str) -> str:
        """The sentence with which a run refused, without the command's name."""
        log = self._folder.path / f"{name}.log"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("lightwatch: ")]
        return lines[-1].removeprefix("lightwatch: ") if lines else f"the {name} run was refused; see {log} [LW001]"

    def outcome(self, clean: Trained, ended: Trained, planned: int) -> Outcome:
        """Everything that both runs have left behind, measured."""
        assert self._struck is not None
        made = read_made(self._of("chaos"))
        micro_batches = int(clean.summary["micro_batches"])
        struck = self._struck.struck
        return Outcome(
            tree=self._arguments.tree,
            steps=self._arguments.steps,
            seed=self._arguments.seed,
            planned=planned,
            hung=ended.hung,
            failed="" if ended.is_well else ended.reason,
            clean_digest=clean.summary.get("digest"),
            chaos_digest=ended.summary.get("digest"),
            differs_at=first_difference(read_checks(self._of("clean").ledger), read_checks(self._of("chaos").ledger)),
            states_differ=_state_digest(self._of("clean")) != _state_digest(self._of("chaos")),
            costs=tuple(costs(struck, made, read_noted(self._of("chaos").ledger), ended.began_at)),
            clean=work(read_made(self._of("clean")), micro_batches),
            chaos=work(made, micro_batches, {pid for each in struck for pid in each.pids.values()}),
            versions_while_control_dead=versions_while_dead(struck, made),
        )

    def _of(self, name: str) -> RunFolder:
        return RunFolder(self._folder.path / name, "")

    def _flags(self) -> list[str]:
        given = self._arguments
        flags = ["--tree", given.tree, "--steps", str(given.steps), "--seed", str(given.seed)]
        flags += ["--config", str(self._config)]
        return flags + (["--data", given.data] if given.data is not None else [])


def _state_digest(folder: RunFolder) -> str | None:
    """Over weights, optimizer, exponents and step, as the last tail agreed it; None where there is none."""
    from control.errors import LedgerError
    from control.record import read_record

    try:
        closing = read_record(folder.ledger).closing
    except LedgerError:
        return None
    return closing.state_digest if closing else None


def _paths(tree: str) -> tuple[str, ...]:
    from control.errors import ControlError
    from control.tree import parse_tree

    try:
        return parse_tree(tree)
    except ControlError as error:
        raise ConfigError(str(error)) from None


def _point(text: str | None) -> Point | None:
    from control.crash import parse_point
    from control.errors import ControlError

    try:
        return parse_point(text) if text is not None else None
    except ControlError as error:
        raise ConfigError(f"--crash-point: {error}") from None


def _folder(out: str | None) -> RunFolder:
    """The folder for both, made."""
    folder = RunFolder.choose(out)
    if out is None:
        folder = replace(folder, path=Path(RUNS, f"chaos-{folder.path.name}").absolute())
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder.path}: {error.strerror or error}; name another folder [LW602]") from None
    return folder
