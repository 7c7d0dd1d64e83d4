"""A stranger at control's port, in a process of its own: one kind of nuisance, for so long, as fast as it is told.

    python -m scripts.benchmarks.attacker KIND HOST PORT SECONDS [--rate N] [--key FILE ...]

Prints one JSON object when time is over, or at SIGTERM: how many attempts it has made, its seconds of the processor,
and how long it took. `--rate` is in attempts a second; without it as many as its core can make.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import zmq

from control.entrance import Enrol
from control.keyfile import KeyFile, Pair, lock, read_key
from control.protocol import Ask, Beat, Hello, Phase, Position, Proof, Ready, Row, StoreSet
from control.wire import encode

AT_ONCE = 256
"""Connections that one stranger has open at a time, but where it keeps them."""
KEPT = 1_000
WAITS_S = 0.2
"""So long one waits for control to say something, or to hang up."""
AT_THE_GATE = 32
FRAMES_A_TURN = 50

CURVE = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)
NULL = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
PLAIN = b"\xff" + bytes(8) + b"\x7f\x03\x01PLAIN" + bytes(47)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
PASSWORD = b"\x04\x12\x05HELLO\x05admin\x05admin"
HUGE = b"\x06" + b"\x7f" + b"\xff" * 7
"""A command of 2^63 bytes."""
BOXED = 80
"""The last bytes of a HELLO: a box that only who knows control's public key can make."""


class Pace:
    """How many attempts are due. rate: in a second; 0: any number."""

    def __init__(self, rate: float, seconds: float) -> None:
        self._rate = rate
        self._began_s = time.monotonic()
        self._ends_s = self._began_s + seconds
        self.made = 0

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._ends_s

    def end(self, *_: object) -> None:
        """Now."""
        self._ends_s = 0.0

    @property
    def due(self) -> bool:
        """Whether another one may be made; then it counts."""
        if self._rate and self.made >= self._rate * (time.monotonic() - self._began_s):
            return False
        self.made += 1
        return True


# -------------------------------------------------------------------- without a key


def knock(address: tuple[str, int], words: Callable[[], bytes], pace: Pace, *, kept: bool = False) -> None:
    """Connect, say this, wait a little for an answer, hang up; kept: hang up only when there are KEPT of them."""
    waits_s, most = (float("inf"), KEPT) if kept else (WAITS_S, AT_ONCE)
    opened: deque[tuple[float, socket.socket]] = deque()
    with selectors.DefaultSelector() as selector:
        while not pace.over:
            while len(selector.get_map()) < most and pace.due:
                caller = _calling(address)
                opened.append((time.monotonic(), caller))
                selector.register(caller, selectors.EVENT_WRITE)
            for key, ready in selector.select(0.01):
                _go_on(selector, key.fileobj, ready, words)  # type: ignore[arg-type]
            while opened and (opened[0][1].fileno() < 0 or time.monotonic() - opened[0][0] > waits_s):
                _hang_up(selector, opened.popleft()[1])
        for _, caller in opened:
            _hang_up(selector, caller)


def _calling(address: tuple[str, int]) -> socket.socket:
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no port waits for a farewell
    caller.setblocking(False)
    caller.connect_ex(address)
    return caller


def _go_on(selector: selectors.BaseSelector, caller: socket.socket, ready: int, words: Callable[[], bytes]) -> None:
    try:
        if ready & selectors.EVENT_WRITE:
            caller.send(words())
            selector.modify(caller, selectors.EVENT_READ)
        elif not caller.recv(65_536):
            _hang_up(selector, caller)
    except BlockingIOError:
        pass
    except OSError:
        _hang_up(selector, caller)


def _hang_up(selector: selectors.BaseSelector, caller: socket.socket) -> None:
    if caller.fileno() >= 0:
        with suppress(KeyError):
            selector.unregister(caller)
        caller.close()


def recorded(control: str) -> bytes:
    """What a client that knows control's public key says first. It may be said again and again, with no work left."""
    with socket.create_server(("127.0.0.1", 0)) as listener, zmq.Context() as context:
        client = context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        lock(client, KeyFile(name="", role="", control=control, **_drawn()))
        client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        heard, _ = listener.accept()
        with heard:
            heard.sendall(CURVE[:32] + b"\x01" + CURVE[33:])
            said = b""
            while len(said) < 64 + 202:
                said += heard.recv(4096)
        client.close()
        return said


def _drawn() -> dict[str, str]:
    pair = Pair.draw()
    return {"public": pair.public, "secret": pair.secret}


# -------------------------------------------------------------------- with one


def at_the_gate(address: str, keys: list[KeyFile], pace: Pace, said: bytes | None = None) -> None:
    """Whole handshakes, with each of these keys in turn; then `said`, and wait for an answer or to be hung up on."""
    turn = 0
    with zmq.Context() as context:
        while not pace.over:
            opened: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []
            while len(opened) < AT_THE_GATE and pace.due:
                turn += 1
                opened.append(_dealer(context, address, keys[turn % len(keys)], said))
            for dealer, monitor in opened:
                _ = monitor.poll(int(WAITS_S * 1000)) if said is None else dealer.poll(int(WAITS_S * 1000))
                dealer.disable_monitor()
                monitor.close(0)
                dealer.close(0)
            if not opened:
                time.sleep(0.005)


def _dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, key: KeyFile, said: bytes | None
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    lock(dealer, key)
    monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED)
    dealer.connect(address)
    if said is not None:
        dealer.send(said)
    return dealer, monitor


def speak(address: str, key: KeyFile, words: Iterator[bytes], pace: Pace) -> None:
    """One connection that is allowed, and says all this."""
    with zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDTIMEO, 100)
        lock(dealer, key)
        dealer.connect(address)
        while not pace.over:
            for _ in range(FRAMES_A_TURN):
                if not pace.due:
                    time.sleep(0.005)
                    break
                try:
                    dealer.send(next(words))
                except zmq.Again:  # control reads no more
                    pace.made -= 1
                    break
        dealer.close()


def mutated(chance: random.Random) -> Iterator[bytes]:
    """What spheres say, with bytes changed, cut, doubled and put in between; without end."""
    generation = (1, 1)
    words = [
        encode(Hello(run_id="another", path="0", pid=1, host="here")),
        encode(Proof(fingerprint={"a": "b"}, micro_batches=1, max_steps=1)),
        encode(Beat(generation=generation, number=1, phase=Phase.COMPUTING, position=Position())),
        encode(Row(generation=generation, version=1, loss=0.5, seconds={"step": 1.0})),
        encode(Ready(generation=generation, position=Position(), holds_state=True, done=[1, 2])),
        encode(StoreSet(generation=generation, request=1, key="k", value=b"v" * 50)),
        encode(Ask(request="r", what="status")),
    ]
    while True:
        frame = bytearray(chance.choice(words))
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(frame)) if frame else 0
            match chance.randrange(4):
                case 0 if frame:
                    frame[place] = chance.randrange(256)
                case 1:
                    del frame[place:]
                case 2:
                    frame[place:place] = chance.randbytes(chance.choice((1, 3, 200)))
                case _:
                    frame += frame[place:]
        yield bytes(frame)


# -------------------------------------------------------------------- each kind

KINDS = (
    "silent", "bytes", "greeting", "no-key", "huge", "forged", "replayed", "wrong-key", "used-token", "frames"
)  # fmt: skip
"""Connections that say nothing and stay; random bytes; half a greeting; a greeting of NULL or PLAIN; a frame that
names a huge length; a HELLO whose box is forged; one that was recorded; whole handshakes with keys that are wrong,
revoked, or of a token that is over; tokens that were used; frames of an allowed machine, mutated."""


def attack(kind: str, address: tuple[str, int], pace: Pace, keys: list[KeyFile]) -> None:
    """Until its time is over."""
    chance = random.Random(7)
    endpoint = f"tcp://{address[0]}:{address[1]}"
    match kind:
        case "silent":
            knock(address, lambda: b"", pace, kept=True)
        case "bytes":
            knock(address, lambda: os.urandom(1000), pace)
        case "greeting":
            knock(address, lambda: CURVE[:12], pace)
        case "no-key":
            knock(address, lambda: chance.choice((NULL + READY, PLAIN + PASSWORD)), pace)
        case "huge":
            knock(address, lambda: CURVE + HUGE, pace)
        case "forged":
            hello = recorded(keys[0].control)
            knock(address, lambda: hello[:-BOXED] + os.urandom(BOXED), pace)
        case "replayed":
            hello = recorded(keys[0].control)
            knock(address, lambda: hello, pace)
        case "wrong-key":
            at_the_gate(endpoint, keys, pace)
        case "used-token":
            at_the_gate(endpoint, keys, pace, encode(Enrol(public=Pair.draw().public, name="thief")))
        case _:
            speak(endpoint, keys[0], mutated(chance), pace)


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="attacker")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--key", action="append", default=[])
    given = parser.parse_args(argv)
    keys = [read_key(Path(each)) for each in given.key]
    pace = Pace(given.rate, given.seconds)
    signal.signal(signal.SIGTERM, pace.end)
    began_s, spent_s = time.monotonic(), time.process_time()
    attack(given.kind, (given.host, given.port), pace, keys)
    took_s = time.monotonic() - began_s
    print(json.dumps({"made": pace.made, "cpu_s": time.process_time() - spent_s, "took_s": took_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
