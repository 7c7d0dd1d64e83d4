"""The last words of a run, for people: a sample, how good the model is, where the time went, what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from ..errors import code_of
from .before import saved_version
from .costs import spoken_level, spoken_link, spoken_shares
from .elsewhere import elsewhere
from .folder import RunFolder
from .record import follows_its_config
from .terminal import Terminal
from .view import spoken_s

SAMPLE_LINES_MOST = 12
NUMBERS = ("LW301", "LW302", "LW303")
"""Failures that come from config, data and seed alone: who goes on from a checkpoint meets them again."""


def tell_end(terminal: Terminal, folder: RunFolder, summary: dict[str, Any]) -> None:
    """Say it all; with --quiet only how it ended."""
    if not terminal.quiet:
        _tell_sample(terminal, folder)
        for line in (_quality(summary), _time(summary), *_costs(summary), _profile(folder, summary)):
            if line:
                terminal.say(line)
    terminal.tell(_end(summary))
    if not terminal.quiet:
        _tell_next(terminal, folder, summary)


def _tell_sample(terminal: Terminal, folder: RunFolder) -> None:
    try:
        text = folder.sample.read_bytes().decode(errors="replace")
    except OSError:
        return
    terminal.say("\nthe model writes:")
    for line in text.splitlines()[:SAMPLE_LINES_MOST]:
        terminal.say("  | " + "".join(sign if sign.isprintable() else "�" for sign in line.expandtabs(4)))
    terminal.say()


def _quality(summary: dict[str, Any]) -> str:
    """Loss and bits per byte, beside what zlib needs for the same bytes."""
    parts = []
    if summary["loss"] is not None:
        parts.append(f"loss {summary['loss_first']:.4f} -> {summary['loss']:.4f}")
    if summary["eval_loss"] is not None:
        parts.append(f"held-out loss {summary['eval_loss']:.4f}")
    if summary["bits_per_byte"] is not None:
        parts.append(f"{summary['bits_per_byte']:.3f} bits per byte")
        if summary["zlib_bits_per_byte"] is not None:
            parts[-1] += f" (zlib -9 needs {summary['zlib_bits_per_byte']:.3f} for the held-out files)"
    return ", ".join(parts)


def _time(summary: dict[str, Any]) -> str:
    """Where the seconds of all steps went, and the pace."""
    seconds, spheres = summary["seconds"], len(summary["seconds_per_sphere"]) or 1
    line = f"time: {_tenths_s(summary['wall_s'])} in all"
    if seconds.get("step"):
        shares = spoken_shares(seconds)
        line += f", {_tenths_s(seconds['step'] / spheres)} in steps" + (f" ({shares})" if shares else "")
    if summary["step_ms_p50"] is not None:
        line += f"; a step {summary['step_ms_p50']:.0f} ms (95%: {summary['step_ms_p95']:.0f} ms)"
    if summary["tokens_per_s"] is not None:
        line += f", {summary['tokens_per_s']:,.0f} tokens/s"
    return line


def _tenths_s(seconds: float) -> str:
    """Seconds, with a decimal where whole ones would hide a short run's."""
    return f"{seconds:.1f} s" if seconds < 10 else spoken_s(seconds)


def _costs(summary: dict[str, Any]) -> list[str]:
    """What slowed the run down, what its levels carried, what was skipped; nothing where there is nothing to say."""
    from control.delays import slow_link

    lines = []
    step_ms, slowest = summary["step_ms_p50"], summary["slowest"]
    if slowest is not None:
        waited_s, others = summary["waited_for"][slowest], len(summary["seconds_per_sphere"]) - 1
        each = f"{waited_s / max(others, 1):.1f}"
        if each != "0.0":
            lines.append(f"the others waited {each} s each for sphere {slowest}")
    link = slow_link(summary["links"], step_ms / 1000 if step_ms else None)
    if link is not None:
        lines.append(spoken_link(link.name, link.round_trip_s))
    lines += filter(None, (spoken_level(level, summary["version"] or 0) for level in summary["traffic"]))
    if summary["skipped"]:
        why = f" ({'; '.join(summary['troubles'])})" if summary["troubles"] else ""
        lines.append(f"{summary['skipped']} of {summary['version']} updates skipped{why}")
    return lines


def _profile(folder: RunFolder, summary: dict[str, Any]) -> str:
    """Where the profile is and what opens it; nothing if none was asked for."""
    files = summary["profile"]
    if files is None:
        return ""
    if len(files) < summary["spheres"]:
        wrote = f"{len(files)} of {summary['spheres']} spheres wrote a profile"
        return f"{wrote} into {_near(folder.profile)}; {_near(folder.logs)} says why"
    which = _near(folder.path / files[0]) + (" and beside it" if len(files) > 1 else "")
    return f"profile: {which}; open it in ui.perfetto.dev or chrome://tracing"


def _end(summary: dict[str, Any]) -> str:
    digest = f", digest {summary['digest'][:16]}…" if summary["digest"] else ""
    return f"{summary['status']} at version {summary['version'] or 0}{digest}: {_near(Path(summary['folder']))}"


def _tell_next(terminal: Terminal, folder: RunFolder, summary: dict[str, Any]) -> None:
    near = shlex.quote(_near(folder.path))
    commands: list[tuple[str, str]] = []
    if folder.model.is_file() and folder.sample.is_file():  # a GPT of ours
        commands.append((f"{_command()} sample {near} --prompt 'class '", "let it write more"))
    if summary["status"] == "completed" and summary["bits_per_byte"] is not None:
        other = "1" if summary["tree"] != "1" else "2x2"
        again = f"{_command()} train --config {shlex.quote(_near(folder.config))} --tree {other}"
        if follows_its_config(folder):
            commands.append((again, "the same digest on another tree"))
        else:
            commands.append((f"{_command()} verify {near}", "compute it again, with what was ordered"))
    commands += _going_on(folder, summary)
    if summary["status"] == "failed":
        commands.append((f"ls {shlex.quote(_near(folder.logs))}", "what each process said"))
    if commands:
        terminal.say("next:")
    for command, purpose in commands:
        terminal.say(f"  {command:<58}  # {purpose}")
    if summary["status"] == "stopped" and (there := elsewhere(folder)):
        terminal.say(f"{'' if commands else 'next: '}{there}")


def _going_on(folder: RunFolder, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The command that goes on with a run that is not done, if something was saved from which that is of use."""
    status = summary["status"]
    if status not in ("stopped", "failed") or code_of(summary["reason"]) in NUMBERS:
        return []
    version = saved_version(folder)
    if version is None:
        return []
    purpose = f"go on from version {version}" + (", once the cause is mended" if status == "failed" else "")
    return [(f"{_command()} train --resume {shlex.quote(_near(folder.path))}", purpose)]


def _command() -> str:
    """How the command is typed here: by its name where the shell finds it, else by its path."""
    beside = Path(sys.executable).with_name("lightwatch")
    if shutil.which("lightwatch") or not beside.exists():
        return "lightwatch"
    return shlex.quote(_near(beside))


def _near(path: Path) -> str:
    """The path as it is shortest from here."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)
