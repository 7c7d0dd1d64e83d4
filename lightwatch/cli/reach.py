"""The address under which other machines reach a control of this machine."""

from __future__ import annotations

import socket

ANYWHERE = ("0.0.0.0", "[::]")
ELSEWHERE = ("192.0.2.1", 9)
"""An address of nobody's: nothing is sent there, but the system says by which of ours it would go."""


def seen_from_afar(address: str) -> str:
    """Where control listens on all of this machine's addresses, that by which it goes out; else the address itself."""
    from control.config import split_address

    host, port = split_address(address)
    return f"tcp://{_own_address() if host in ANYWHERE else host}:{port}"


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:  # no way out of here: a name is all there is
            return socket.gethostname()
        return str(probe.getsockname()[0])
