"""The join line of a run: what is pasted on another machine so that it takes part."""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import ConfigError
from .folder import read_json
from .reach import seen_from_afar


def join_line(folder: Path, machines: int = 1, control: str | None = None) -> str:
    """A new one, good for an hour and so many machines. control: its address as they reach it; None: where it listens.

    Raises ConfigError where there are no keys or no control yet, and what drawing a token raises.
    """
    from control.config import check_connect
    from control.keys import Keys
    from control.tokens import JoinLine, Tokens

    keys = Keys(folder)
    if not keys.exist:
        raise ConfigError(f"{folder}: this run has no keys; `lightwatch keys new` draws some [LW541]")
    card = read_json(folder / "control.json") or {}
    if control is not None:
        check_connect(control)
    address, run_id = control or str(card.get("address", "")), str(card.get("run_id", ""))
    if not address or not run_id:
        raise ConfigError(f"{folder}: its control has not been started yet, so no machine can join [LW505]")
    token = Tokens(keys).new(time.time(), machines)
    return str(JoinLine(seen_from_afar(address), run_id, keys.pair.public, token))
