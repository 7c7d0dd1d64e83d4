"""From the command line to a run that can be started: everything is checked before anything is made.

Defaults < preset < file < flags; environment variables never. The order of the checks is that of their cost: flags and
file, folder, tree, port, disk, and the data last.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..config import PRESET, ControlConfig, GPTConfig, RunConfig, load, merge
from ..corpus import Corpus, is_there, refuse_other
from ..errors import ConfigError, DataError
from .folder import DiskError, RunFolder


@dataclass(frozen=True)
class TextFacts:
    """What the launcher keeps of the data: the text itself would cost its size for the whole run."""

    told: str
    fingerprint: str
    """As a sphere proves it."""
    zlib_bits_per_byte: float | None
    """What `zlib -9` needs for the held-out bytes; None if none are held out."""


@dataclass(frozen=True)
class Point:
    """Where a run goes on: a checkpoint's folder, or None for version 0. skipped: a sentence for each passed over.
    lineage: the one that it begins there, because something was overridden; None: it goes on in the one that it has."""

    path: Path | None
    version: int
    skipped: tuple[str, ...] = ()
    lineage: int | None = None


@dataclass(frozen=True)
class Settings:
    """A run that may be started: all input was judged."""

    run: RunConfig
    paths: tuple[str, ...]
    """Of the spheres, in tree order; a single "0" if alone."""
    alone: bool
    folder: RunFolder
    text: TextFacts | None = None
    """None: a script reads its own, or they are not on this machine."""
    script: tuple[str, ...] = ()
    """The user's script and its arguments; empty for `train`."""
    profile: bool = False
    """Whether each sphere writes a profile of a few steps."""
    point: Point | None = None
    """Where the run goes on, if it was begun before."""
    machines: int = 0
    """How many machines the join line that is printed lets in; 0: none is printed."""
    again: bool = False
    """Whether control takes up the ledger of a run that may be going on."""

    @property
    def tree(self) -> str:
        return self.run.control.tree


def settle_train(arguments: argparse.Namespace, *, data_elsewhere: bool = False) -> Settings:
    """Judge everything that `lightwatch train` was given. Makes nothing. Raises ConfigError, DataError, DiskError.

    data_elsewhere: nobody trains on this machine, so the data need not be here; what is here is judged.
    """
    run = resolve(arguments)
    folder = RunFolder.choose(arguments.out)
    paths, alone = judged_paths(run.control, folder)
    refuse_clashing_logs(paths)
    if not alone:
        refuse_nowhere(run.control, paths)
        refuse_busy_port(run.control.listen)
    refuse_full_disk(folder.path, run.model)
    text = None if data_elsewhere and not is_there(run.data.path) else read_text(run)
    return Settings(run, paths, alone, folder, text, profile=arguments.profile)


def refuse_nowhere(control: ControlConfig, paths: tuple[str, ...]) -> None:
    """Raise ConfigError if no sphere is where the checkpoints are to be written."""
    at = control.checkpoint_at
    if at and paths and not any(path == at or path.startswith(f"{at}/") for path in paths):
        raise ConfigError(
            f"checkpoint_at is {at[:80]!r}, where no sphere of the tree {control.tree} is; it has {paths[0]} and "
            f"{len(paths) - 1} more: name the path of a host [LW002]"
        )


def resolve(arguments: argparse.Namespace) -> RunConfig:
    """The complete set: preset, then the file, then the flags."""
    run = PRESET if arguments.config is None else load(Path(arguments.config), PRESET)
    if arguments.steps is not None and arguments.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {arguments.steps} [LW002]")
    run = merge(
        run,
        training=training_flags(arguments),
        data={} if arguments.data is None else {"path": _given_path(arguments.data)},
        control=control_flags(arguments),
    )
    if run.training.max_steps < 0:
        raise ConfigError("max_steps is -1, without end: give --steps N or a max_steps of at least 1 [LW002]")
    # Absolute, so that the run's config.toml means the same from any folder.
    return merge(run, data={"path": os.path.abspath(run.data.path)}) if run.data.path else run


def training_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """The flags of `train` that are settings of its training."""
    flags = {
        "max_steps": arguments.steps,
        "seed": arguments.seed,
        "reduction": arguments.reduction,
        "device": arguments.device,
    }
    return {name: value for name, value in flags.items() if value is not None}


def control_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """The flags that `train` and `run` share."""
    flags = {"tree": arguments.tree, "listen": arguments.listen}
    return {name: value for name, value in flags.items() if value is not None}


def judged_paths(control: ControlConfig, folder: RunFolder) -> tuple[tuple[str, ...], bool]:
    """The spheres' paths, in tree order, and whether the tree is one process without control.

    Raises ConfigError for what control would refuse: its own code judges it.
    """
    from control.config import Settings as ControlSettings
    from control.errors import ControlError
    from control.tree import is_alone

    try:
        alone = is_alone(control.tree)
        listen = ControlConfig().listen if alone else control.listen  # nobody listens there
        of_control = ControlSettings(folder.path, folder.run_id, control.tree, listen, control.silence_s)
        return of_control.paths, alone
    except ControlError as error:
        raise ConfigError(str(error)) from None


def refuse_clashing_logs(paths: tuple[str, ...]) -> None:
    """A sphere's log is logs/<path>.log, so no inner node may be called like another's log, as in `a:1,a/0.log:1`."""
    files = {f"{path}.log" for path in paths} | {"control.log", "host.log"}
    for path in paths:
        names = path.split("/")
        for depth in range(1, len(names)):
            if "/".join(names[:depth]) in files:
                raise ConfigError(
                    f"tree: {'/'.join(names[:depth])!r} is also the name of a log; choose another name [LW402]"
                )


def refuse_busy_port(listen: str) -> None:
    """Refuse what control could not bind. Another program may still take the port before control does."""
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    if port == "*":
        return
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
            raise ConfigError(
                f"--listen {listen}: {reason}; choose another, or leave it out for a free one [LW504]"
            ) from None


def refuse_full_disk(folder: Path, model: GPTConfig) -> None:
    """The model must fit beside its aside copy; asked now, not after the training."""
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    need = 2 * 4 * parameters(model) + (1 << 20)
    free = shutil.disk_usage(nearest).free
    if free < need:
        raise DiskError(
            f"the disk under {nearest} is too full: {free:,} bytes are free, the run needs {need:,} [LW601]"
        )


def parameters(model: GPTConfig) -> int:
    """How many weights the GPT has, near enough for a disk."""
    blocks = 12 * model.layers * model.width**2
    return blocks + (2 - model.tied) * model.vocabulary * model.width + model.context * model.width


def read_text(run: RunConfig) -> TextFacts:
    """Read the data as every sphere will; raises DataError. What zlib makes of the held-out part costs 0.1 s a MB."""
    try:
        corpus = Corpus.read(run.data.path, run.data.sequence_length)
    except OSError as error:
        raise DataError(f"--data {run.data.path[:80]}: {error.strerror or error} [LW101]") from None
    fingerprint = corpus.fingerprint_of("train", run.data.sequence_length)
    refuse_other(run.data.path, fingerprint, run.data.fingerprint)
    where = run.data.path or "the standard library's source"
    bits = 8 * len(zlib.compress(corpus.held_out, 9)) / len(corpus.held_out) if corpus.held_out else None
    return TextFacts(f"{where}: {corpus}", fingerprint, bits)


def _given_path(text: str) -> str:
    if text == "":
        raise ConfigError("--data needs a path; leave it out for the standard library's source [LW001]")
    return text
