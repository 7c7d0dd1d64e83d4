"""A user's own script, judged before it is started."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def check_script(script: str) -> str:
    """The script's absolute path. Raises ConfigError if it can't be run, or if its folder hides our packages."""
    try:
        path = Path(script).resolve()
        if not path.is_file():
            raise ConfigError(f"{script}: there is no such script [LW804]")
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{script!r} can't be read: {error} [LW804]") from None
    try:
        compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise ConfigError(f"{script}{line}: this is not Python: {getattr(error, 'msg', error)} [LW804]") from None
    for name in ("control", "spheres"):
        for hiding in (path.parent / f"{name}.py", path.parent / name):
            if hiding.is_file() or (hiding.is_dir() and hiding.resolve() != _our_own(name)):
                raise ConfigError(
                    f"{hiding} hides lightwatch's own package {name!r} from the script; rename it [LW805]"
                )
    return str(path)


def _our_own(name: str) -> Path:
    return Path(__file__).resolve().parents[2] / name
