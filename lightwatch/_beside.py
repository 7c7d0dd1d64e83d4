"""Whose are the packages `control` and `spheres` that Python would import?

Other distributions ship packages of these names. An editable install of ours loses to them, and a wheel shares their
folder, where whoever was installed last owns `__init__.py`. So before the first import of either, `check` makes sure
that both lie beside this package and begin as ours do; it reads two short files and imports nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from .errors import LightwatchError

OPENINGS = {
    "control": '"""control: the process that decides.',
    "spheres": '"""spheres: the processes that carry.',
}
"""How our own `__init__.py` of each package begins; that is what tells a shared folder's owner."""


class ForeignPackageError(LightwatchError, ImportError):
    """Another distribution's `control` or `spheres` stands where ours should. The user's environment: exit code 2."""


def check() -> None:
    """Raise ForeignPackageError unless `control` and `spheres` are our own; the sentence says whose they are."""
    home = Path(__file__).resolve().parent.parent
    for name, opening in OPENINGS.items():
        found = _init_file(name)
        if found is None or found.resolve() != home / name / "__init__.py" or not _begins(found, opening):
            raise ForeignPackageError(_sentence(name, home / name, found))


def _init_file(name: str) -> Path | None:
    """The file that `import name` runs or has run; None if there is no such package."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
    return Path(origin) if origin else None


def _begins(path: Path, opening: str) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(len(opening)) == opening
    except (OSError, UnicodeDecodeError):
        return False


def _sentence(name: str, expected: Path, found: Path | None) -> str:
    if found is None:
        return (
            f"lightwatch needs its package `{name}` at {expected}, and there is none: install lightwatch again [LW701]"
        )
    return (
        f"lightwatch needs its own package `{name}` at {expected}, but Python finds {found}{_owner(name)}; "
        f"install lightwatch in an environment of its own [LW701]"
    )


def _owner(name: str) -> str:
    """Which other distributions ship the package. Reads the records of all of them: only for the error."""
    from importlib.metadata import packages_distributions

    others = sorted(set(packages_distributions().get(name, ())) - {"lightwatch"})
    return f", which belongs to the distribution {' and '.join(others)}" if others else ""
