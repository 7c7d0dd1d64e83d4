"""The line to control: one thread, one DEALER socket, and everything else asks that thread.

How a word travels
  1. `send` puts a message into a queue and wakes the thread; it never blocks, on no state of control.
  2. The thread says Hello whenever a connection has been made (again), then what is queued (outbox.py); after a broken
     connection not before Welcome, which tells what control still holds. While nothing is connected messages wait;
     beats don't, they tell the present and would only be stale.
  3. What control says is folded into `heard` (state.py) and whoever waits is woken.
  4. Expelled is obeyed here and at once, by the end of the process: whoever is thrown out may be stuck elsewhere.

Two heartbeats, because they fail differently. The thread sends Beat with what the sphere stands for; a GIL held for
seconds (a C extension) delays it. libzmq's own (line.py) stops only with the process. So a missing Beat says "stuck,
perhaps", a broken connection says "gone or stopped".

A Link belongs to the process that made it: make it after a fork, not before.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]

from control.crash import here
from control.keyfile import KeyFile
from control.protocol import (
    LEFT,
    Beat,
    Dial,
    FromSphere,
    Generation,
    Hello,
    Memory,
    Phase,
    Refused,
    StoreReply,
    StoreRequest,
    ToSphere,
    Welcome,
    without_paces,
)
from control.wire import decode_at_sphere, encode
from lightwatch.errors import LightwatchError, RunEnded

from . import dial, points
from .line import LINGER_MS, Line, is_address
from .outbox import Outbox
from .state import Heard, Standing, hear, move

T = TypeVar("T")

log = logging.getLogger("lightwatch.spheres")

BEATS_IN_SILENCE = 10
TOLD_AT_ONCE = ("phase", "failed_in", "unreachable", "leaving")
UNTRAINED = (Phase.STARTING, Phase.ADMITTED)
START_ANEW = 75
"""The exit code that asks the supervisor for a successor."""
TERMINATED = 76
"""The exit code of one that is to have none, by order."""


class AdmissionRefused(LightwatchError):
    """Control will not have this sphere; the sentence is control's."""


class ControlSilent(LightwatchError, TimeoutError):
    """Control said nothing, or not what was waited for, within the time given."""


class LinkBroken(LightwatchError, RuntimeError):
    """The link is closed, or its thread ended on an error of ours."""


class Link:
    """A sphere's line to control. All methods may be called from any thread.

    silence_s: after so many seconds without a sign the connection counts as broken, and is made anew. pulse: called
    from the link's thread with every beat, also while control is away: this process lives. leave: how the process ends
    when control throws it out, or lets it go before it trains. key: what this machine shows to control; None: the
    run has no keys.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        silence_s: float,
        *,
        pulse: Callable[[], object] | None = None,
        leave: Callable[[int], object] = os._exit,
        key: KeyFile | None = None,
    ) -> None:
        if not is_address(address):
            raise ControlSilent(
                f"{address!r} is no address of a control process; one looks like tcp://127.0.0.1:5555 [LW006]"
            )
        self.address = address
        self._hello = hello
        self.path = hello.path
        self._beat_s = silence_s / BEATS_IN_SILENCE
        self._pulse = pulse
        self._leave = leave
        self._process = psutil.Process()
        self._changed = threading.Condition()  # guards everything below; notified on every change of it
        self._heard = Heard()
        self._standing = Standing()
        self._outbox = Outbox()
        self._memory: Memory | None = None
        self._replies: dict[int, StoreReply | None] = {}
        self._request = 0
        self._handshakes = 0
        self._welcome_due = False
        self._superseded = False
        self._interrupt: tuple[Callable[[], None], Generation] | None = None
        self._closing = False
        self._failure: str | None = None
        self._beats = 0
        self._beat_due = False
        self._line = Line(address, silence_s, key)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        heard = self._heard
        return f"Link({self.address}, sphere {heard.sphere}, generation {heard.generation}, {len(self._outbox)} queued)"

    @property
    def heard(self) -> Heard:
        """The newest of what control has said: a frozen value, no lock needed."""
        return self._heard

    @property
    def standing(self) -> Standing:
        """What beats say now."""
        return self._standing

    def open(self, timeout_s: float) -> int:
        """Wait for admission; this sphere's id. Raises AdmissionRefused, ControlSilent, RunEnded."""
        sphere = self.wait(lambda heard: heard.sphere or None, timeout_s, "to Hello")
        self.stand(phase=Phase.ADMITTED)
        return sphere

    def ask_to_leave(self) -> None:
        """Say in every beat from now on that this sphere is to leave; control's End says when. Who is not known to
        control yet leaves at once."""
        if not self._heard.sphere:
            self._leave(0)
        self.stand(leaving=True)

    def send(self, message: FromSphere) -> None:
        """Hand over a message; it goes out in order, as soon as control is connected. Never blocks."""
        points.before(message)
        with self._changed:
            self._check_alive()
            self._outbox.put(message)
        self._line.ring()
        points.after(message)

    def remember(self, memory: Memory) -> None:
        """What a control that has lost its ledger is told, should one come; the orders are added then."""
        self._memory = memory

    def stand(self, **fields: object) -> None:
        """Change what beats say: the fields of `Standing`. A new phase or failure is told at once, in turn.

        Raises StateError for a move of the phase that state.MOVES doesn't have.
        """
        with self._changed:
            new = msgspec.structs.replace(self._standing, **fields)
            move(self._standing.phase, new.phase)
            old = self._standing
            urgent = any(getattr(new, name) != getattr(old, name) for name in TOLD_AT_ONCE)
            self._standing = new
            self._beat_due |= urgent
        if urgent:
            self._line.ring()

    def wait(self, pick: Callable[[Heard], T | None], timeout_s: float, to: str = "") -> T:
        """Block until `pick(heard)` gives something, and return it.

        `pick` is asked first, so that one can wait for the End itself; then RunEnded if the run has ended,
        AdmissionRefused, LinkBroken, and ControlSilent once timeout_s is over.
        to: what we wait for an answer to, for the sentence.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            heard = self._heard
            found = pick(heard)
            if found is not None:
                return found
            if heard.refused is not None:
                raise AdmissionRefused(heard.refused.text)
            if heard.end is not None:
                raise RunEnded(heard.end.status, heard.end.reason)
            with self._changed:
                self._check_alive()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ControlSilent(self._silence(timeout_s, to))
                if self._heard is heard:
                    self._changed.wait(left)

    def request(self, message: StoreRequest, timeout_s: float) -> StoreReply:
        """Ask control's store and wait for the reply; `message.request` is numbered here.

        Raises RunEnded when the run ends or the message's generation is over meanwhile, for then no reply comes;
        ControlSilent after timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._check_alive()
            self._request += 1
            number = self._request
            self._replies[number] = None
            self._outbox.put(msgspec.structs.replace(message, request=number))
        self._line.ring()
        try:
            with self._changed:
                while (reply := self._replies[number]) is None:
                    self._check_alive()
                    if self._heard.ends(message.generation):
                        raise self._over(message.generation)
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise ControlSilent(self._silence(timeout_s, f"to {type(message).__name__}"))
                    self._changed.wait(left)
                return reply
        finally:
            with self._changed:
                del self._replies[number]

    def on_interrupt(self, callback: Callable[[], None] | None, after: Generation | None = None) -> None:
        """Call `callback` from the link's thread whenever a View newer than `after`, or an End, arrives; None: don't.

        after: default is the generation heard last. If what is heard is already past it, the call comes at once, from
        here. The callback must not block: beats wait for it.
        """
        with self._changed:
            start = self._heard.generation if after is None else after
            self._interrupt = None if callback is None else (callback, start)
            late = self._heard.ends(start)
        if callback is not None and late:
            callback()

    def close(self) -> None:
        """Send what is queued (at most a second), end the thread, close the sockets. Twice is once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._line.ring()
        if self._thread is not threading.current_thread():
            self._thread.join(4 * LINGER_MS / 1000)

    # ------------------------------------------------------------ under the lock

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise LinkBroken(f"the link to control at {self.address} broke: {self._failure} [LW901]")
        if self._closing:
            raise LinkBroken(f"the link to control at {self.address} is closed [LW901]")

    def _silence(self, timeout_s: float, to: str) -> str:
        state = "connected, but without the answer" if self._line.connected else "no connection"
        return (
            f"control at {self.address} did not answer{' ' + to if to else ''} within {timeout_s:g} s ({state}); "
            "check that it runs, and that the address is its own [LW501]"
        )

    def _over(self, generation: Generation) -> RunEnded:
        if self._heard.end is not None:
            return RunEnded(self._heard.end.status, self._heard.end.reason)
        return RunEnded("superseded", f"generation {generation} is over, {self._heard.generation} was called")

    def _beat(self) -> Beat:
        self._beats += 1
        standing = msgspec.structs.asdict(self._standing)
        if standing["seen"] is None:
            standing["seen"] = self._heard.seen
        return Beat(
            **standing,
            number=self._beats,
            incarnation=self._heard.incarnation,
            rss_bytes=self._process.memory_info().rss,
            cpu_s=time.process_time(),
        )

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # ours: told to whoever uses the link next, instead of a silent end
            with self._changed:
                self._failure = f"{type(error).__name__}: {error}"
                self._changed.notify_all()
        finally:
            self._line.close()

    def _serve(self) -> None:
        next_beat = time.monotonic()
        end: float | None = None
        while True:
            now = time.monotonic()
            if self._closing:
                end = now + LINGER_MS / 1000 if end is None else end
                if now >= end or not len(self._outbox):
                    return
            if now >= next_beat:
                next_beat = now + self._beat_s
                self._beat_due = True
                if self._pulse is not None:
                    self._pulse()
            self._line.wait(next_beat - now)
            for made in self._line.changes():
                if made:
                    self._handshakes += 1
                    self._welcome_due = self._handshakes > 1
                    self._superseded = False
                    here("sphere.before_hello")
                    self._line.send(encode(self._introduction()))
                    here("sphere.after_hello")
            self._receive()
            self._flush()

    def _introduction(self) -> Hello:
        """Hello; after a broken connection with what this sphere knows, for control may be another process now."""
        heard, memory = self._heard, self._memory
        if memory is not None:
            memory = msgspec.structs.replace(memory, orders=without_paces(heard.orders))
        return msgspec.structs.replace(
            self._hello,
            sphere=heard.sphere,
            incarnation=heard.incarnation,
            memory=memory if self._handshakes > 1 else None,
        )

    def _receive(self) -> None:
        with self._changed:
            before = self._heard
            for frame in self._line.frames():
                self._hear(decode_at_sphere(frame))
            if before.refused is None and self._line.handshakes.are_over():
                why = self._line.handshakes.why_refused()
                self._hear(Refused(text=f"sphere {self.path}: control at {self.address}: {why}"))
            heard = self._heard
            newer = heard.generation > before.generation or (heard.end is not None and before.end is None)
            callback, after = self._interrupt or (None, heard.generation)
            self._changed.notify_all()
        if heard.expelled is not None and before.expelled is None:
            log.error("control threw this sphere out: %s", heard.expelled.text)
            self._leave(TERMINATED if heard.expelled.final else START_ANEW)
        if heard.end is not None and heard.end.status == LEFT and self._standing.phase in UNTRAINED:
            self._leave(0)  # nobody looks at what is heard while a script builds its model
        if newer and callback is not None and heard.ends(after):
            callback()

    def _hear(self, message: ToSphere) -> None:
        if isinstance(message, StoreReply):
            if message.request in self._replies:
                self._replies[message.request] = message
            return
        if isinstance(message, Dial):
            dial.answer(message, self.send)
            return
        if isinstance(message, Welcome):
            self._superseded = message.incarnation < self._heard.incarnation
        if self._superseded:  # a predecessor that was stopped, and woke: its End ends nothing, it will hear of us
            return
        self._heard = hear(self._heard, message)
        if isinstance(message, Welcome) and self._welcome_due:
            self._welcome_due = False
            self._outbox.say_again(message.rows_held)

    def _flush(self) -> None:
        while self._line.connected and not self._welcome_due:
            with self._changed:
                frame = self._outbox.take() or self._due_beat()
            if frame is None:
                return
            if not self._line.send(frame):
                with self._changed:
                    self._outbox.put_back(frame)
                return

    def _due_beat(self) -> bytes | None:
        """A beat, if one is due: made only when nothing is queued, so that it never overtakes what it builds on."""
        if not self._beat_due or not self._heard.sphere:
            return None
        self._beat_due = False
        return encode(self._beat())
