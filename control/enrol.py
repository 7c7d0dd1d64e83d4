"""The newcomer's half of enrolment: from a join line to a key file of this machine's own, in one call."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import msgspec
import zmq

from .entrance import Enrol, Enrolled
from .errors import KeyRefused, NoAnswer
from .handshakes import EVENTS, Handshakes
from .keyfile import KeyFile, Pair, lock_to, own_folder, own_key, read_key, write_private
from .tokens import JoinLine
from .wire import decode_at_newcomer, encode

ENROL_S = 10.0
AGAIN_S = 1.0
TRIES = 20


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
    answer = _asked(wanted, Enrol(public=pair.public, name=name or _host_name()), timeout_s)
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


def _asked(line: JoinLine, word: Enrol, timeout_s: float) -> Enrolled:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.IPV6, int("[" in line.address))
    lock_to(dealer, line.control, line.token)
    monitor = dealer.get_monitor_socket(EVENTS)
    handshakes = Handshakes(keyed=True, tries=TRIES)
    poller = zmq.Poller()
    for source in (dealer, monitor):
        poller.register(source, zmq.POLLIN)
    try:
        dealer.connect(line.address)
        deadline = time.monotonic() + timeout_s
        again = time.monotonic()
        while (now := time.monotonic()) < deadline:
            if now >= again:
                again = now + AGAIN_S
                dealer.send(encode(word))
            poller.poll(max(0, int(min(again - now, deadline - now) * 1000)) + 1)
            if dealer.poll(0):
                answer = decode_at_newcomer(dealer.recv())
                if isinstance(answer, Enrolled):
                    return answer
                raise KeyRefused(answer.text)
            handshakes.read(monitor)
            if handshakes.are_over():
                raise KeyRefused(f"control at {line.address} does not take this join line: {_why(handshakes)} [LW545]")
    finally:
        dealer.disable_monitor()
        monitor.close(0)
        dealer.close(0)
        context.term()
    raise NoAnswer(f"control at {line.address} did not answer within {timeout_s:g} s; can it be reached? [LW501]")


def _why(handshakes: Handshakes) -> str:
    if handshakes.denied:
        return "its hour is over, or it is of another run; ask for another one"
    return "who listens there is not the control that the line is of"


def _host_name() -> str:
    """This host's name, as far as a machine may be called so."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:56].lstrip(".-") or "machine"
