"""What control is started with, checked once; and what an address may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import AddressError, SettingsError
from .tree import parse_tree

_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>\*|[0-9]{1,5})")
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}|localhost|\[::1\]")
_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Settings:
    """One control process: its folder, its run, where it listens, who it expects.

    silence_s: the one time-out; the others derive from it. lifeline: stdin is a pipe whose end means the launcher died.
    adopt: the ledger is lost, so take the spheres' word for what the run is; its former control is known to be dead.
    resume: go on with the run of this ledger, or of the checkpoints beside it, with other processes, those of before
    are known to be dead: "on", or "anew" for a lineage of its own; empty: not.
    """

    folder: Path
    run_id: str
    tree: str = "2x2"
    listen: str = "tcp://127.0.0.1:*"
    silence_s: float = 1.0
    lifeline: bool = False
    adopt: bool = False
    resume: str = ""

    def __post_init__(self) -> None:
        if not _RUN_ID.fullmatch(self.run_id):
            raise SettingsError(
                f"run id: expected letters, digits, '_', '.', '-' (at most 64), got {self.run_id!r} [LW002]"
            )
        if not 0.2 <= self.silence_s <= 3600:
            raise SettingsError(f"silence_s: expected 0.2 to 3600 seconds, got {self.silence_s} [LW002]")
        parse_tree(self.tree)
        check_listen(self.listen, keyed=(self.folder / "keys" / "control.key").exists())

    @property
    def paths(self) -> tuple[str, ...]:
        """Who is expected, in tree order."""
        return parse_tree(self.tree)


def split_address(address: str) -> tuple[str, str]:
    """Host and port of tcp://HOST:PORT; the port may be `*`. Raises AddressError."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise AddressError(f"address: expected tcp://HOST:PORT, got {address!r} [LW006]")
    host, port = match["host"], match["port"]
    if port != "*" and not 1 <= int(port) <= 65535:
        raise AddressError(f"address: expected a port from 1 to 65535, got {port} in {address!r} [LW006]")
    return host, port


def check_listen(address: str, keyed: bool = False) -> None:
    """Raise AddressError unless control may bind here: on loopback, and elsewhere if the run has keys."""
    host, _ = split_address(address)
    if not keyed and not _LOOPBACK.fullmatch(host):
        raise AddressError(
            f"address: {address!r} is not on this machine's loopback, and the run has no keys: draw some with "
            "`lightwatch keys new DIR --name NAME` and start it there (--out DIR), or listen on 127.0.0.1 [LW007]"
        )


def check_connect(address: str) -> None:
    """Raise AddressError unless a client can connect to this address."""
    _, port = split_address(address)
    if port == "*":
        raise AddressError(f"address: a client needs a port, got {address!r} [LW006]")
