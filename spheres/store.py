"""torch's rendezvous over the line to control, so that no port is open for it.

Laws
  1. Every call is acknowledged: a `set` that nobody heard raises (TCPStore's appears to succeed).
  2. Keys belong to (run, generation): a store is made for one generation and dies with it, so that no name is used
     twice. When that generation is over, whoever waits in it is told at once.
  3. Values are bytes of at most some KB (addresses of groups); control limits count and size.

gloo's constructor, which runs without the GIL and may call from a thread that was left behind, asks set, wait and get
only; the rest of torch's interface is there as far as control's messages have it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from torch._C._distributed_c10d import Store

from control.protocol import Generation, StoreAdd, StoreDelete, StoreGet, StoreReply, StoreRequest, StoreSet
from lightwatch.errors import LightwatchError

from .link import Link

Value: TypeAlias = bytes | str


class StoreRefused(LightwatchError, RuntimeError):
    """Control will not keep or give this key: a limit of its store is reached."""


class LinkStore(Store):
    """A `torch.distributed.Store` whose keys are kept by control.

    Keep a reference to it as long as torch uses it: torch's C++ side holds none (it then says "Not implemented").

    timeout_s: for calls that bring no time-out of their own. Blocks the calling thread only. Raises TimeoutError
    (ControlSilent) where a key does not come in time, RunEnded when the generation is over.
    """

    def __init__(self, link: Link, run_id: str, generation: Generation, timeout_s: float) -> None:
        super().__init__()
        self._link = link
        self._prefix = f"{run_id}/"
        self._generation = generation
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"LinkStore({self._prefix}, generation {self._generation})"

    @property
    def timeout(self) -> timedelta:
        """Of calls that bring none of their own."""
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    def set(self, key: str, value: Value) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        message = StoreSet(generation=self._generation, request=0, key=self._prefix + key, value=data)
        self._ask(message, self._timeout_s)

    def get(self, key: str) -> bytes:
        """The value, once it is there."""
        return self._wait([key], self._timeout_s)[0]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Block until all the keys are there."""
        self._wait(keys, self._timeout_s if timeout is None else timeout.total_seconds())

    def check(self, keys: list[str]) -> bool:
        """Whether all the keys are there now."""
        message = StoreGet(generation=self._generation, request=0, keys=self._named(keys), peek=True)
        return self._link.request(message, self._timeout_s).found

    def add(self, key: str, amount: int) -> int:
        """Add to a number kept as decimal text (missing: 0); the sum."""
        message = StoreAdd(generation=self._generation, request=0, key=self._prefix + key, amount=amount)
        return int(self._ask(message, self._timeout_s).values[0])

    def delete_key(self, key: str) -> bool:
        """Whether it was there."""
        message = StoreDelete(generation=self._generation, request=0, key=self._prefix + key)
        return self._link.request(message, self._timeout_s).found

    def num_keys(self) -> int:
        raise NotImplementedError("control does not count keys for a sphere")

    def _named(self, keys: list[str]) -> list[str]:
        return [self._prefix + key for key in keys]

    def _wait(self, keys: list[str], timeout_s: float) -> list[bytes]:
        message = StoreGet(generation=self._generation, request=0, keys=self._named(keys))
        return self._ask(message, timeout_s).values

    def _ask(self, message: StoreRequest, timeout_s: float) -> StoreReply:
        reply = self._link.request(message, timeout_s)
        if not reply.found:
            raise StoreRefused(
                f"control at {self._link.address} refused {type(message).__name__} in generation {self._generation}: "
                "its store for groups is full, or the key holds no number [LW901]"
            )
        return reply
