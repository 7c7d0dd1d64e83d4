"""`lightwatch train`: the main job, a byte-level GPT on text."""

from __future__ import annotations

import argparse

from ..config import dumps
from ..errors import ConfigError
from .conduct import conduct
from .settings import Settings, settle_train
from .terminal import Terminal, spoken_count


def train(arguments: argparse.Namespace) -> int:
    """Judge all input, then run; the exit code."""
    terminal = Terminal(json_only=arguments.json, quiet=arguments.quiet)
    if arguments.resume is not None:
        from .resume import resume

        return resume(arguments, terminal)
    if arguments.override:
        raise ConfigError("--override is for a run that goes on: name it with --resume DIR [LW001]")
    settings = settle_train(arguments)
    _announce(settings, terminal)
    return conduct(settings, dumps(settings.run), terminal, log_level=arguments.log_level, debug=arguments.debug)


def _announce(settings: Settings, terminal: Terminal) -> None:
    training, spheres = settings.run.training, len(settings.paths)
    if settings.text is not None:
        terminal.say(f"data: {settings.text.told}")
    what = (
        "one process, without control" if settings.alone else f"{spoken_count(spheres, 'sphere')}, tree {settings.tree}"
    )
    terminal.say(
        f"run {settings.folder.run_id}: {what}; {spoken_count(training.max_steps, 'step')} of "
        f"{spoken_count(training.micro_batches, 'micro-batch')}, seed {training.seed}, reduction {training.reduction}"
    )
    if spheres > training.micro_batches:
        idle = spheres - training.micro_batches
        shared = spoken_count(training.micro_batches, "micro-batch")
        terminal.say(f"{spheres} spheres share {shared}: {idle} of them idle in each step")
