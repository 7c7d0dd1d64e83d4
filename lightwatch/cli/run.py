"""`lightwatch run SCRIPT`: a user's own Trainer, alone or on every sphere of a tree."""

from __future__ import annotations

import argparse

from ..config import RunConfig, dumps, merge
from .arguments import DEFAULT_TREE
from .conduct import conduct
from .folder import RunFolder
from .script import check_script
from .settings import Settings, control_flags, judged_paths, refuse_busy_port, refuse_clashing_logs, refuse_nowhere
from .terminal import Terminal, spoken_count


def run(arguments: argparse.Namespace) -> int:
    """Judge the script and the flags, then run; the exit code."""
    terminal = Terminal(json_only=arguments.json, quiet=arguments.quiet)
    settings = settle_run(arguments)
    what = "one process" if settings.alone else f"{spoken_count(len(settings.paths), 'sphere')}, tree {settings.tree}"
    terminal.say(f"run {settings.folder.run_id}: {settings.script[0]} on {what}")
    return conduct(settings, config_text(settings), terminal, log_level=arguments.log_level, debug=arguments.debug)


def settle_run(arguments: argparse.Namespace) -> Settings:
    """Everything that can be judged before the script runs: its own config and data are its own."""
    script = check_script(arguments.script)
    config = merge(RunConfig(), control={"tree": DEFAULT_TREE, **control_flags(arguments)})
    folder = RunFolder.choose(arguments.out)
    paths, alone = judged_paths(config.control, folder)
    refuse_clashing_logs(paths)
    if not alone:
        refuse_nowhere(config.control, paths)
        refuse_busy_port(config.control.listen)
    words = (script, *arguments.args)
    return Settings(config, paths, alone, folder, script=words, profile=arguments.profile)


def config_text(settings: Settings) -> str:
    """Defaults stand in for the script's own settings, which are written over them once its Trainer is made."""
    return dumps(settings.run, tables=("control",))
