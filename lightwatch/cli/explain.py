"""`lightwatch explain LW002`: what causes and what cures the kind of trouble that a code stands for."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import ConfigError
from .terminal import Terminal

PAGE = Path(__file__).resolve().parent.parent / "errors.md"


def explain(arguments: argparse.Namespace) -> int:
    """Print the code's paragraph. Raises ConfigError if there is no such code."""
    Terminal().tell(paragraph_of(arguments.code, PAGE.read_text(encoding="utf-8")))
    return 0


def paragraph_of(code: str, page: str) -> str:
    """The heading and the paragraph under it. The code may be given in brackets and in small letters."""
    wanted = code.strip("[]").upper()
    found = re.search(rf"^### ({re.escape(wanted)} .+?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    if found:
        return found[1].strip()
    raise ConfigError(f"there is no code {code[:40]!r}; {PAGE} holds all of them [LW001]")
