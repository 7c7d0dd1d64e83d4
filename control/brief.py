"""What a machine has to know of a run before its first sphere: asked of control, so that nobody copies a folder."""

from __future__ import annotations

from pathlib import Path

from .entrance import Brief, Briefed
from .errors import NoAnswer
from .handshakes import Handshakes
from .keyfile import KeyFile, Pair
from .protocol import Refused
from .question import asked
from .tokens import JoinLine

BRIEF_S = 10.0
CONFIG_BYTES_MOST = 1 << 18


def brief(address: str, key: KeyFile | None, timeout_s: float = BRIEF_S) -> Briefed:
    """The run of the control at this address. Blocks for timeout_s at most. Raises KeyRefused, NoAnswer."""

    lock = (key.control, Pair(public=key.public, secret=key.secret)) if key is not None else None
    return _told(address, lock, timeout_s)


def brief_by_line(line: JoinLine, timeout_s: float = BRIEF_S) -> Briefed:
    """The same before this machine is enrolled: a line that could still enrol one tells it, and is not used up.

    Blocks for timeout_s at most. Raises KeyRefused, NoAnswer.
    """
    return _told(line.address, (line.control, line.token), timeout_s)


def _told(address: str, lock: tuple[str, Pair] | None, timeout_s: float) -> Briefed:
    def why(handshakes: Handshakes) -> str:
        return f"control at {address}: {handshakes.why_refused()}"

    answer = asked(address, Brief(), lock, timeout_s, why)
    if not isinstance(answer, Briefed):
        raise NoAnswer(f"control at {address} answered another question; is it of this version? [LW506]")
    return answer


def briefed(folder: Path, run_id: str) -> Briefed | Refused:
    """Control's answer: the run's config as it is on its disk now."""
    try:
        with open(folder / "config.toml", "rb") as file:
            text = file.read(CONFIG_BYTES_MOST).decode()
    except (OSError, ValueError) as error:
        return Refused(text=f"control can't read its own {folder / 'config.toml'}: {error} [LW604]")
    return Briefed(run_id=run_id, config=text)
