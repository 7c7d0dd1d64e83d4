"""A sphere's larder: where its peers fetch the state from, and find out whether it can be reached at all.

A ROUTER at a port of its own, with a thread of its own: it serves while the trainer computes.

Laws
  1. A stock belongs to one generation and one position. Who asks for another that is past is told so; for one that is
     to come, it waits, and is told that.
  2. A holder's state is read where it lies, so `withdraw` comes before the first change of it; no chunk is being read
     when it returns. The change waits for everybody who fetches: they are part of the tail that allows it.
  3. A sphere that fetches serves what has come and was right. So joiners form a chain, and each link carries one state.
  4. Requests are small and strictly typed; one that is none of ours is dropped.
  5. In a run with keys everything is encrypted. Who connects knows the larder's public key, which control tells the
     run's spheres alone; who gets anything knows the word of the generation, which it tells its members alone: so
     whoever was thrown out or revoked gets no more. Nobody is asked who may connect (ZAP): that would be a thread of
     ours, and peers would take one whose GIL is held for dead.

That a peer is alive is asked of its connection, which libzmq's own thread keeps: a held GIL is no death.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from typing import TypeAlias

import msgspec
import zmq

from control.crash import here
from control.keyfile import Pair, be_server
from control.protocol import Generation, Position

from .stock import CHUNK_BYTES_MOST, Manifest, Stock

log = logging.getLogger("lightwatch.spheres")

REQUEST_BYTES_MOST = 4096
REPLY_BYTES_MOST = max(CHUNK_BYTES_MOST, 64 << 20) + 4096
WAITING_MOST = 1024
"""Requests for what is not here yet, of all peers together."""
UNSENT_MOST = 16
"""Replies that lie ready for one peer: it asks for few at a time."""
KEEP_ALIVE_MS = 5000
"""A peer that says nothing for so long is gone, and what lies ready for it goes too."""
THE_MANIFEST = -1

Key: TypeAlias = tuple[Generation, Position]


class Want(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Give me this chunk of the state with which this generation began; `THE_MANIFEST`: what it consists of."""

    generation: Generation
    position: Position
    chunk: int = THE_MANIFEST
    word: str = ""
    """Of the generation, as its members were told; empty in a run without keys."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Here it is."""

    number: int
    data: bytes


class Later(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """I don't have it yet; it comes as soon as I do."""

    chunk: int


class Gone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """It is not here, and will not be."""

    chunk: int


Reply: TypeAlias = Manifest | Chunk | Later | Gone


class Larder:
    """One sphere's. Methods come from the trainer's thread; `close` ends thread and socket. Made after a fork.

    address: where it is bound; an empty port is chosen. pair: drawn for it, in a run with keys; then `word` is what
    members of the generation know. handed_bytes: of chunks given away so far.
    """

    def __init__(self, address: str = "127.0.0.1", pair: Pair | None = None) -> None:
        self.address = address
        self.key = pair.public if pair is not None else ""
        self.word = ""
        self._context = zmq.Context(io_threads=1)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.setsockopt(zmq.IPV6, int(":" in address))
        self._router.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES_MOST)
        self._router.setsockopt(zmq.SNDHWM, UNSENT_MOST)
        self._router.setsockopt(zmq.HEARTBEAT_IVL, KEEP_ALIVE_MS)
        if pair is not None:
            be_server(self._router, pair)
        host = f"[{address}]" if ":" in address else address
        self.port = self._router.bind_to_random_port(f"tcp://{host}")
        self._woken, self._wake = socket.socketpair()
        self._decoder = msgspec.msgpack.Decoder(Want)
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._key: Key | None = None
        self._stock: Stock | None = None
        self._past: Generation = (0, 0)
        self._waiting: list[tuple[bytes, Want]] = []
        self._closing = False
        self.handed_bytes = 0
        self._thread = threading.Thread(target=self._serve, name="larder", daemon=True)
        self._thread.start()

    def offer(self, key: Key, stock: Stock) -> None:
        """Serve this from now on, instead of what was served."""
        with self._lock:
            self._key, self._stock = key, stock
        self.ring()

    def offers(self, key: Key) -> bool:
        """Whether the stock of this generation and position is being served."""
        return self._key == key

    def withdraw(self) -> None:
        """Serve nothing more: what lay here is about to change. Waits for the chunk that is being read."""
        with self._lock:
            if self._key is not None:
                self._past = max(self._past, self._key[0])
            self._key = self._stock = None
        self.ring()

    def ring(self) -> None:
        """There is more to serve than before."""
        try:
            self._wake.send(b"x", socket.MSG_DONTWAIT)
        except (BlockingIOError, OSError):  # full: it is about to look; or closed
            pass

    def close(self) -> None:
        """End the thread and close the socket. Twice is once."""
        self._closing = True
        self.ring()
        self._thread.join()

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        more = False
        try:
            while not self._closing:
                ready = dict(poller.poll(0 if more else None))
                if self._woken.fileno() in ready:
                    self._woken.recv(4096)
                if self._router in ready:
                    self._hear()
                with self._lock:
                    more = self._stock is not None and self._stock.work()
                self._answer_those_who_wait()
        finally:
            self._router.close(0)
            self._context.term()
            self._woken.close()
            self._wake.close()

    def _hear(self) -> None:
        identity, *frames = self._router.recv_multipart()
        try:
            want = self._decoder.decode(b"".join(frames))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("the larder dropped %d bytes that are no request: %s", sum(map(len, frames)), error)
            return
        reply = self._reply(want)
        self._send(identity, reply)
        if isinstance(reply, Later) and len(self._waiting) < WAITING_MOST:
            self._waiting.append((identity, want))

    def _answer_those_who_wait(self) -> None:
        waiting, self._waiting = self._waiting, []
        for identity, want in waiting:
            reply = self._reply(want)
            if isinstance(reply, Later):
                self._waiting.append((identity, want))
            else:
                self._send(identity, reply)

    def _reply(self, want: Want) -> Reply:
        with self._lock:
            key = (want.generation, want.position)
            if self.key and not (self.word and hmac.compare_digest(want.word.encode(), self.word.encode())):
                log.warning("the larder gives nothing to who does not know the generation's word")
                return Gone(chunk=want.chunk)
            if self._stock is None or key != self._key:
                newest = self._past if self._key is None else self._key[0]
                return Later(chunk=want.chunk) if want.generation > newest else Gone(chunk=want.chunk)
            if want.chunk == THE_MANIFEST:
                if not self._stock.wanted:
                    self._stock.wanted = True
                    self.ring()  # it may have been asked for before it lay here: there is work only from now on
                return self._stock.manifest or Later(chunk=want.chunk)
            data = self._stock.chunk(want.chunk)
            return Later(chunk=want.chunk) if data is None else Chunk(number=want.chunk, data=data)

    def _send(self, identity: bytes, reply: Reply) -> None:
        here("sphere.before_handing_out")
        try:
            self._router.send_multipart([identity, self._encoder.encode(reply)], zmq.NOBLOCK)
            self.handed_bytes += len(reply.data) if isinstance(reply, Chunk) else 0
        except zmq.ZMQError as error:  # its route is full or gone: whoever it is asks again, or has left
            log.debug("the larder could not answer: %s", error)
