"""Taking a state from a peer's larder, and asking which larders can be reached.

Two connections to the donor: over one the chunks come, some asked ahead; the other carries nothing but libzmq's own
heartbeats, so that a chunk that takes long over a thin line, or a donor whose GIL is held, is not taken for a death.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from control.crash import here
from control.keyfile import Pair, lock_to
from control.protocol import Member
from lightwatch.errors import LightwatchError

from .larder import REPLY_BYTES_MOST, THE_MANIFEST, Chunk, Gone, Key, Larder, Later, Reply, Want
from .stock import Manifest, Partial, StateRefused

ASKED_AHEAD = 4
STALLED = 30
"""Times silence_s in which a donor that lives, and did not say "later", hands over nothing: it never will."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class FetchBroken(LightwatchError):
    """The donor is gone, or gave what can't be right. What came before, and was right, is kept."""


class StateCorrupted(FetchBroken):
    """Bytes came that are not those that the manifest names; they were not kept, and not passed on."""


class Fetch:
    """One fetch. partial: what has come so far, also after `run` raised; None before the manifest.

    came_bytes: so far, whether they were right or not.
    kept: of an earlier fetch; gone on with if its manifest is the same. silence_s: a donor without a sign for so long
    is dead. over: asked some ten times in silence_s; once it says yes, nobody needs the state any more.
    """

    def __init__(
        self, donor: Member, key: Key, kept: Partial | None, silence_s: float, over: Callable[[], bool]
    ) -> None:
        self.partial: Partial | None = None
        self.came_bytes = 0
        self._donor = donor
        self._key = key
        self._kept = kept
        self._silence_s = silence_s
        self._over = over
        self._word = ""
        self._asked: set[int] = set()
        self._told_later = False
        self._alive = 0
        self._last_s = 0.0

    def run(self, larder: Larder) -> Partial:
        """The whole state, each chunk checked. What comes is served by `larder` at once.

        Blocks. Raises FetchBroken, StateCorrupted.
        """
        if larder.key and not self._donor.key:
            raise self._broken("it would hand out the state in the clear, in a run with keys")
        self._word = larder.word
        with _Dealers() as dealers:
            return self._run(dealers, larder)

    def _run(self, dealers: _Dealers, larder: Larder) -> Partial:
        data, data_monitor = dealers.to(self._donor)
        _, life_monitor = dealers.to(self._donor, self._silence_s)
        poller = zmq.Poller()
        for source in (data, data_monitor, life_monitor):
            poller.register(source, zmq.POLLIN)
        self._last_s = began_s = time.monotonic()
        self._ask(data, THE_MANIFEST)
        while self.partial is None or self.partial.missing():
            ready = dict(poller.poll(max(int(self._silence_s * 100), 1)))
            if self._over():
                raise self._broken("the generation is over")
            for monitor in (data_monitor, life_monitor):
                if monitor in ready:
                    self._watch(monitor)
            if self._alive < 2 and time.monotonic() - began_s > self._silence_s:
                raise self._broken(f"no connection within {self._silence_s:g} s")
            while data.poll(0):
                self._last_s = time.monotonic()
                self._take(data.recv(), larder)
            if not self._told_later and time.monotonic() - self._last_s > STALLED * self._silence_s:
                raise self._broken(f"nothing came for {STALLED * self._silence_s:g} s")
            self._ask_ahead(data)
        return self.partial

    def _watch(self, monitor: zmq.Socket[bytes]) -> None:
        while monitor.poll(0):
            if recv_monitor_message(monitor)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                raise self._broken("its connection broke")
            self._alive += 1

    def _ask(self, data: zmq.Socket[bytes], number: int) -> None:
        generation, position = self._key
        data.send(_encoder.encode(Want(generation=generation, position=position, chunk=number, word=self._word)))
        self._asked.add(number)

    def _ask_ahead(self, data: zmq.Socket[bytes]) -> None:
        if self.partial is None or len(self._asked) >= ASKED_AHEAD:
            return
        for number in self.partial.missing():
            if len(self._asked) >= ASKED_AHEAD:
                return
            if number not in self._asked:
                self._ask(data, number)

    def _take(self, frame: bytes, larder: Larder) -> None:
        self.came_bytes += len(frame)
        try:
            reply = _decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._corrupted(f"{len(frame)} bytes that are none of our messages ({error})") from None
        self._told_later = isinstance(reply, Later)
        match reply:
            case Later():
                return
            case Gone():
                raise self._broken("it no longer has what this generation began with")
            case Manifest():
                self._asked.discard(THE_MANIFEST)
                if self.partial is None:
                    self.partial = self._begun(reply)
                    larder.offer(self._key, self.partial)
            case Chunk(number=number, data=data):
                here("sphere.chunk_came")
                self._asked.discard(number)
                if self.partial is None or not self.partial.take(number, data):
                    raise self._corrupted(f"chunk {number} with another hash than its manifest says")
                larder.ring()

    def _begun(self, manifest: Manifest) -> Partial:
        if self._kept is not None and self._kept.manifest == manifest:
            return self._kept
        try:
            return Partial(manifest)
        except StateRefused as error:
            raise self._corrupted(f"a state that can't be taken: {error}") from None
        except (RuntimeError, MemoryError) as error:
            raise FetchBroken(f"the state of {self._name()} does not fit into this memory: {error} [LW703]") from None

    def _name(self) -> str:
        return f"sphere {self._donor.sphere} ({self._donor.path})"

    def _broken(self, why: str) -> FetchBroken:
        return FetchBroken(f"could not fetch the state from {self._name()}: {why} [LW408]")

    def _corrupted(self, what: str) -> StateCorrupted:
        return StateCorrupted(
            f"{self._name()} handed over {what}; it was not kept, nor passed on, and the old state stands [LW304]"
        )


def unreachable(members: Sequence[Member], timeout_s: float) -> list[int]:
    """Which of these spheres' larders can't be reached. All are tried at once. Blocks for timeout_s at most.

    A member counts as reached once its process has greeted: one that is stopped does not, one that is busy does.
    """
    with _Dealers() as dealers:
        tried: dict[zmq.Socket[bytes], int] = {}
        poller = zmq.Poller()
        for member in members:
            if member.port:
                _, monitor = dealers.to(member)
                tried[monitor] = member.sphere
                poller.register(monitor, zmq.POLLIN)
        deadline = time.monotonic() + timeout_s
        while tried and (left_s := deadline - time.monotonic()) > 0:
            for monitor, _ in poller.poll(int(left_s * 1000) + 1):
                poller.unregister(monitor)
                if recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    del tried[monitor]
        return sorted(tried.values())


class _Dealers:
    """Sockets to larders, with what tells about their connections; all are closed together."""

    def __init__(self) -> None:
        self._context = zmq.Context(io_threads=1)
        self._made: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []

    def __enter__(self) -> _Dealers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for dealer, monitor in self._made:
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close(0)
        self._context.term()

    def to(self, member: Member, silence_s: float = 0.0) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Connected to a member's larder. silence_s: without a sign for so long the connection breaks; 0: it need
        give none."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IPV6, int(":" in member.address))
        dealer.setsockopt(zmq.MAXMSGSIZE, REPLY_BYTES_MOST)
        dealer.setsockopt(zmq.RECONNECT_IVL, 50)
        if member.key:  # it proves that it is that larder; who we are the generation's word tells
            lock_to(dealer, member.key, Pair.draw())
        if silence_s:
            silence_ms = max(int(silence_s * 1000), 10)
            dealer.setsockopt(zmq.HEARTBEAT_IVL, max(silence_ms // 5, 1))
            dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, max(silence_ms * 4 // 5, 1))
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._made.append((dealer, monitor))
        host = f"[{member.address}]" if ":" in member.address else member.address
        dealer.connect(f"tcp://{host}:{member.port}")
        return dealer, monitor
