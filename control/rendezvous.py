"""The store through which torch's groups of one generation meet: keys, waiters, limits. No sockets here.

Keys belong to a generation and are dropped with it, so two generations can't meet. What asks for an older generation
gets no answer: its asker has heard of the newer one, or will, and keeps its own deadline.
"""

from __future__ import annotations

from .protocol import NO_GENERATION, Generation, StoreAdd, StoreDelete, StoreGet, StoreReply, StoreRequest, StoreSet

MAX_KEYS = 65_536
MAX_BYTES = 64 << 20
MAX_KEY_BYTES = 1_024
MAX_WAITERS = 4_096


class Rendezvous:
    """`handle` takes one request and returns the replies that follow from it, the waiters' too."""

    def __init__(self) -> None:
        self.generation: Generation = NO_GENERATION
        self._values: dict[str, bytes] = {}
        self._bytes = 0
        self._waiting: list[tuple[int, StoreGet]] = []

    def begin(self, generation: Generation) -> None:
        """Drop everything of older generations."""
        if generation > self.generation:
            self.generation = generation
            self._values.clear()
            self._waiting.clear()
            self._bytes = 0

    def forget(self, sphere: int) -> None:
        """A sphere is gone: it waits for nothing any more."""
        self._waiting = [(who, get) for who, get in self._waiting if who != sphere]

    def handle(self, sphere: int, request: StoreRequest) -> list[tuple[int, StoreReply]]:
        """Replies as (sphere, reply). A put over a limit is answered with found=False and changes nothing."""
        if request.generation != self.generation:
            return []
        match request:
            case StoreSet():
                if not self._put(request.key, request.value):
                    return [(sphere, StoreReply(request=request.request, found=False))]
                return [(sphere, StoreReply(request=request.request)), *self._woken()]
            case StoreAdd():
                return self._add(sphere, request)
            case StoreDelete():
                value = self._values.pop(request.key, None)
                self._bytes -= len(value) + len(request.key) if value is not None else 0
                return [(sphere, StoreReply(request=request.request, found=value is not None))]
            case StoreGet():
                return self._get(sphere, request)

    def _put(self, key: str, value: bytes) -> bool:
        old = self._values.get(key)
        grown = self._bytes + len(value) - (len(old) if old is not None else -len(key))
        if len(key) > MAX_KEY_BYTES or grown > MAX_BYTES or (old is None and len(self._values) >= MAX_KEYS):
            return False
        self._values[key] = value
        self._bytes = grown
        return True

    def _add(self, sphere: int, request: StoreAdd) -> list[tuple[int, StoreReply]]:
        try:
            value = str(int(self._values.get(request.key, b"0")) + request.amount).encode()
        except ValueError:  # it is no number, or one of thousands of digits
            return [(sphere, StoreReply(request=request.request, found=False))]
        if not self._put(request.key, value):
            return [(sphere, StoreReply(request=request.request, found=False))]
        return [(sphere, StoreReply(request=request.request, values=[value])), *self._woken()]

    def _get(self, sphere: int, request: StoreGet) -> list[tuple[int, StoreReply]]:
        reply = self._reply(request)
        if reply is None and request.peek:
            reply = StoreReply(request=request.request, found=False)
        if reply is not None:
            return [(sphere, reply)]
        if len(self._waiting) >= MAX_WAITERS:
            return [(sphere, StoreReply(request=request.request, found=False))]
        self._waiting.append((sphere, request))
        return []

    def _reply(self, request: StoreGet) -> StoreReply | None:
        values = [self._values[key] for key in request.keys if key in self._values]
        return StoreReply(request=request.request, values=values) if len(values) == len(request.keys) else None

    def _woken(self) -> list[tuple[int, StoreReply]]:
        replies = [(sphere, self._reply(get)) for sphere, get in self._waiting]
        self._waiting = [waiting for waiting, (_, reply) in zip(self._waiting, replies, strict=True) if reply is None]
        return [(sphere, reply) for sphere, reply in replies if reply is not None]
