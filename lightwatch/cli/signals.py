"""Signals as facts that a loop looks at: the first is a wish to stop, the second ends at once."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Catches SIGINT, SIGTERM and SIGHUP while it is open; `received` holds them in order. Main thread only.

    on_signal: called in the handler with all received so far; it may raise, into whatever the main thread does.
    A signal that was ignored before (nohup's SIGHUP) stays ignored.
    """

    def __init__(self, on_signal: Callable[[list[int]], None] | None = None) -> None:
        self.received: list[int] = []
        self._on_signal = on_signal
        self._before: dict[int, Any] = {}
        self._reader = self._writer = -1
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        for number in CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if self._on_signal:
            self._on_signal(self.received)

    def wait(self, timeout_s: float, *descriptors: int) -> list[int]:
        """Sleep until a signal arrives, one of `descriptors` is readable, or the time is over; the readable ones."""
        with selectors.DefaultSelector() as watched:
            for descriptor in (self._reader, *descriptors):
                watched.register(descriptor, selectors.EVENT_READ)
            ready = [key.fd for key, _ in watched.select(timeout_s)]
        if self._reader in ready:
            os.read(self._reader, 4096)
        return [descriptor for descriptor in ready if descriptor != self._reader]
