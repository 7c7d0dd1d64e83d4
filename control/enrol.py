"""The newcomer's half of enrolment: from a join line to a key file of this machine's own, in one call."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import msgspec

from .entrance import Enrol, Enrolled
from .errors import NoAnswer
from .handshakes import Handshakes
from .keyfile import KeyFile, Pair, own_folder, own_key, read_key, write_private
from .question import asked
from .tokens import JoinLine

ENROL_S = 10.0


def enrol(line: str, name: str = "", timeout_s: float = ENROL_S) -> Path:
    """The key file of this machine for the run that the join line names; drawn, and enrolled, unless it has one.

    name: what it is called there; empty: by its host's name. Blocks for timeout_s at most. Raises KeyFileError (this is
    no join line, or the key that lies here can't be used), KeyRefused (control's sentence), NoAnswer.
    """
    wanted = JoinLine.read(line)
    path = own_key(wanted.run_id, "sphere")
    if path.exists() and read_key(path).control == wanted.control:
        return path
    pair = _drawn(path.with_suffix(".drawn"))
    word = Enrol(public=pair.public, name=name or _host_name())
    answer = asked(wanted.address, word, (wanted.control, wanted.token), timeout_s, lambda seen: _why(wanted, seen))
    if not isinstance(answer, Enrolled):
        raise NoAnswer(f"control at {wanted.address} answered another question; is it of this version? [LW506]")
    key = KeyFile(
        name=answer.name,
        role=answer.role,
        control=wanted.control,
        public=pair.public,
        secret=pair.secret,
        run_id=wanted.run_id,
        address=wanted.address,
    )
    key.write(path, replace=True)
    path.with_suffix(".drawn").unlink()
    return path


def _drawn(path: Path) -> Pair:
    """A pair, kept from before the token is used: who dies in between asks again as the same machine."""
    own_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pair)
    except (OSError, msgspec.DecodeError):
        pair = Pair.draw()
        write_private(path, msgspec.json.encode(pair), replace=True)
        return pair


def _why(line: JoinLine, handshakes: Handshakes) -> str:
    why = "who listens there is not the control that the line is of"
    if handshakes.denied:
        why = "its hour is over, or it is of another run; ask for another one"
    return f"control at {line.address} does not take this join line: {why} [LW545]"


def _host_name() -> str:
    """This host's name, as far as a machine may be called so."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:56].lstrip(".-") or "machine"
