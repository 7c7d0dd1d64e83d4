"""The command `lightwatch`: parse, hand over to the command's file, turn what went wrong into a sentence and a code.

Nothing heavy is imported here: `--help` needs argparse alone, and each command imports what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback

from .. import __version__
from ..errors import ConfigError, DataError, told
from .arguments import parse
from .terminal import Terminal

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
TYPED = ("LW001", "LW002")
"""The codes of what can't be meant as it was typed."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 usage, 130 Ctrl-C. Never raises."""
    given = sys.argv[1:] if argv is None else argv
    debug = "--debug" in given
    try:
        arguments = parse(given, __version__)
        return _dispatch(arguments)
    except SystemExit as leaving:  # --help and --version
        return leaving.code if isinstance(leaving.code, int) else DONE
    except KeyboardInterrupt as interrupted:
        Terminal().complain(str(interrupted) or "interrupted")
        return INTERRUPTED
    except BaseException as error:
        if debug:
            traceback.print_exc()
        Terminal().complain(told(error))
        return USAGE if is_users(error) else FAILED
    finally:
        _flush()


def _dispatch(arguments: argparse.Namespace) -> int:
    from .._beside import check

    check()
    match arguments.command:
        case "train":
            from .train import train as command
        case "run":
            from .run import run as command
        case "status":
            from .status import status as command
        case "tree" | "health" | "stats" | "events" | "wait":
            from .questions import question as command
        case "sample":
            from .sample import sample as command
        case "chaos":
            from .chaos import chaos as command
        case "checkpoints":
            from .checkpoints import checkpoints as command
        case "up":
            from .up import up as command
        case "join":
            from .join import join as command
        case "doctor":
            from .doctor import doctor as command
        case "keys":
            from .keys import keys as command
        case "explain":
            from .explain import explain as command
        case "verify":
            from .verify import verify as command
        case _:
            from .orders import order as command
    return command(arguments)


def is_users(error: BaseException) -> bool:
    """Whether the user's input or environment is to blame, and not the run; also if it was control that said so."""
    from .._beside import ForeignPackageError

    return getattr(error, "code", "") in TYPED or isinstance(error, ConfigError | DataError | ForeignPackageError)


def _flush() -> None:
    """A reader that is gone must not make the interpreter complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
