"""`lightwatch explain LW002`: what causes and what cures the kind of trouble that a code stands for."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import ConfigError
from .terminal import Terminal

PAGE = Path(__file__).resolve().parent.parent / "errors.md"


def explain(arguments: argparse.Namespace) -> int:
    """Print the code's paragraph, or without a code what codes there are. Raises ConfigError for an unknown one."""
    page = PAGE.read_text(encoding="utf-8")
    Terminal().tell(contents_of(page) if arguments.code is None else paragraph_of(arguments.code, page))
    return 0


def contents_of(page: str) -> str:
    """The subjects, and under each its codes with their titles, a line each."""
    headings = re.findall(r"^(##|###) (.+)$", page, re.MULTILINE)
    return "\n".join(f"  {title}" if depth == "###" else title for depth, title in headings)


def paragraph_of(code: str, page: str) -> str:
    """The heading and the paragraph under it. The code may be given in brackets, in small letters, by its digits."""
    wanted = code.strip("[]").upper()
    if re.fullmatch(r"[0-9]{3}", wanted):
        wanted = f"LW{wanted}"
    found = re.search(rf"^### ({re.escape(wanted)} .+?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    if found:
        return found[1].strip()
    raise ConfigError(f"there is no code {code[:40]!r}; `lightwatch explain` lists all of them [LW001]")
