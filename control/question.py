"""One question to control over a connection of its own, by who has no seat there: an answer, or why there is none."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import zmq

from .checkup import CheckedUp
from .entrance import Briefed, Enrolled
from .errors import KeyRefused, NoAnswer
from .handshakes import EVENTS, Handshakes
from .keyfile import Pair, lock_to
from .wire import decode_at_newcomer, encode

AGAIN_S = 1.0
TRIES = 20


def asked(
    address: str,
    word: msgspec.Struct,
    lock: tuple[str, Pair] | None,
    timeout_s: float,
    why: Callable[[Handshakes], str],
) -> Enrolled | Briefed | CheckedUp:
    """Control's answer; the word is said again until it comes. lock: control's public half and the pair to show; None:
    the run has no keys. why: the sentence for one who is turned away at the handshake.

    Blocks for timeout_s at most. Raises KeyRefused (control's sentence, or `why`), NoAnswer.
    """
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.IPV6, int("[" in address))
    if lock is not None:
        lock_to(dealer, *lock)
    monitor = dealer.get_monitor_socket(EVENTS)
    handshakes = Handshakes(keyed=lock is not None, tries=TRIES)
    poller = zmq.Poller()
    for source in (dealer, monitor):
        poller.register(source, zmq.POLLIN)
    try:
        dealer.connect(address)
        deadline = time.monotonic() + timeout_s
        again = time.monotonic()
        while (now := time.monotonic()) < deadline:
            if now >= again:
                again = now + AGAIN_S
                dealer.send(encode(word))
            poller.poll(max(0, int(min(again - now, deadline - now) * 1000)) + 1)
            if dealer.poll(0):
                answer = decode_at_newcomer(dealer.recv())
                if isinstance(answer, Enrolled | Briefed | CheckedUp):
                    return answer
                raise KeyRefused(answer.text)
            handshakes.read(monitor)
            if handshakes.are_over():
                raise KeyRefused(why(handshakes))
    finally:
        dealer.disable_monitor()
        monitor.close(0)
        dealer.close(0)
        context.term()
    raise NoAnswer(f"control at {address} did not answer within {timeout_s:g} s; can it be reached? [LW501]")
