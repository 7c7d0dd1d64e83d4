"""What people and programs read: lines on stdout, errors on stderr, or one JSON line and nothing else.

Laws
  1. With `json`, stdout gets exactly one line, and no line on stderr begins with `{`.
  2. A reader that goes away (`| head`) ends the talking, not the run.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


def one_line(text: object) -> str:
    """`text` without line breaks and control characters: a sentence stays one line, whatever name is quoted in it."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(text))


class Terminal:
    """Where a command talks. `say` is progress (not with --quiet), `tell` is the result, `complain` an error.

    `aside` is what is neither and comes before the result: on stderr, so that stdout has the result alone.
    """

    def __init__(self, *, json_only: bool = False, quiet: bool = False) -> None:
        self.json_only = json_only
        self.quiet = quiet

    @property
    def people(self) -> TextIO:
        """The stream for people: stdout, or stderr if stdout is for the one JSON line."""
        return sys.stderr if self.json_only else sys.stdout

    @property
    def is_live(self) -> bool:
        """Whether a view that redraws itself makes sense."""
        return not self.quiet and self.people.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def say(self, text: str = "") -> None:
        if not self.quiet:
            self.tell(text)

    def tell(self, text: str = "") -> None:
        if self.json_only:  # a text of several lines, such as a model's sample, may hold any first character
            text = "\n".join(f" {line}" if line.startswith("{") else line for line in text.split("\n"))
        _write(self.people, text + "\n")

    def aside(self, text: str) -> None:
        if not self.quiet:
            _write(sys.stderr, f"lightwatch: {one_line(text)}\n")

    def complain(self, text: object) -> None:
        """One line, beginning with the command's name."""
        _write(sys.stderr, f"lightwatch: {one_line(text)}\n")

    def emit(self, summary: dict[str, Any]) -> None:
        """The one JSON line, if it was asked for."""
        if self.json_only:
            _write(sys.stdout, json.dumps(summary, allow_nan=False) + "\n")


def spoken_count(count: int, what: str) -> str:
    """1 sphere, 1,000 spheres, 2 micro-batches."""
    ending = "" if count == 1 else "es" if what.endswith("ch") else "s"
    return f"{count:,} {what}{ending}"


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:  # a terminal that knows ASCII only
        _write(stream, text.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):
        # The reader is gone. What the interpreter flushes at its end goes nowhere, instead of raising there.
        if stream in (sys.stdout, sys.stderr):
            with open(os.devnull, "w") as nowhere:
                _point_at(stream, nowhere)


def _point_at(stream: TextIO, nowhere: TextIO) -> None:
    try:
        os.dup2(nowhere.fileno(), stream.fileno())
    except (OSError, ValueError):
        pass
