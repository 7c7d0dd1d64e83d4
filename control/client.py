"""Talk to a running control from another process: status, tree, orders, and the run's story.

Each request has an id and is sent again until it is answered; control acts on an id once. Every call ends within its
time: with an answer, OrderRefused, or NoAnswer.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import zmq

from .config import check_connect
from .errors import AddressError, KeyRefused, NoAnswer, OrderRefused
from .handshakes import EVENTS, Handshakes
from .keyfile import KeyFile, found_key, lock, read_key
from .process import ControlProcess as ControlProcess
from .protocol import Answer, Ask, Event
from .status import Status
from .wire import decode_at_client, encode

AGAIN_S = 1.0
LOOK_S = 0.2
"""How soon it is noticed that control does not take the key."""
EFFECT_S = 60.0
"""How long an order may take to be in force: a step has to end first, and a step takes as long as it takes."""

EVENTS_KEPT = 10_000
TRIES = 10
"""So often nobody hangs up in a handshake by chance."""


class ControlClient:
    """A connection to control at an address, or to the control of a run's folder. One thread at a time; close it.

    timeout_s: for each answer. key: this machine's key file; None: the one that it has for this run, in the run's
    folder or in the user's (keyfile.py), if any. Raises AddressError at once for what is no address and no run's
    folder, KeyFileError for a key that can't be used, NoAnswer when control is silent, KeyRefused if it wants another.
    """

    def __init__(
        self,
        address_or_run_dir: str | os.PathLike[str],
        timeout_s: float = 5.0,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        self.address = _address(address_or_run_dir)
        own = _key(address_or_run_dir, self.address) if key is None else read_key(Path(key))
        self.timeout_s = timeout_s
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.IPV6, int("[" in self.address))
        lock(self._socket, own)
        self._handshakes = Handshakes(keyed=own is not None, tries=TRIES)
        self._monitor = self._socket.get_monitor_socket(EVENTS)
        self._socket.connect(self.address)
        self._answers: dict[str, deque[Answer]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._closed = False

    # ---------------------------------------------------------------- questions

    def status(self) -> Status:
        """The run as control sees it now."""
        status = self._ask("status").status
        if status is None:
            raise NoAnswer(f"control at {self.address} answered without a status; is it of this version? [LW506]")
        return status

    def tree(self) -> str:
        """The tree as lines of text, with what each sphere does."""
        return self._ask("tree").text

    def events(self) -> Iterator[Event]:
        """The run's story from now on: rows, spheres, generations, orders; the last one's kind is "end".

        A "state" with the whole status comes at least every second, so a control that dies raises NoAnswer.
        """
        first = self._ask("watch")
        if first.status is not None:
            yield Event(kind="state", text=first.status.state, status=first.status)
        while True:
            while self._events:
                event = self._events.popleft()
                yield event
                if event.kind == "end":
                    return
            if not self._receive(time.monotonic() + self.timeout_s, lambda: bool(self._events)):
                raise self._no_answer("went silent")

    # ---------------------------------------------------------------- orders

    def pause(self, wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """All spheres stop between two steps, at the same version. Returns it; None if not waited for."""
        return self._order("pause", None, wait, timeout_s)

    def resume(self, wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """Go on after a pause. Returns the version from which it is in force."""
        return self._order("resume", None, wait, timeout_s)

    def stop(self, wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """End the run early, whole: all spheres at the same version. Returns it."""
        return self._order("stop", None, wait, timeout_s)

    def set_learning_rate(self, rate: float, wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """Another base rate for the schedule. Returns the version after which the first update uses it."""
        return self._order("set_learning_rate", rate, wait, timeout_s)

    def checkpoint(self, name: str = "", wait: bool = True, timeout_s: float = EFFECT_S) -> str | None:
        """Save the next version, under a name or its own. Returns the folder's name once all of it is on the disk; None
        if not waited for. Raises OrderRefused, also when the disk refuses."""
        answer = self._obeyed(Ask(request=uuid.uuid4().hex, what="checkpoint", text=name), wait, timeout_s)
        return answer.checkpoint or None

    def restore(self, name: str = "", wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """Take the run back to a checkpoint, by its folder's name, or to the newest. Returns the version from which it
        goes on. What was ordered last stays ordered. Raises OrderRefused if it can't be read as a whole."""
        return self._obeyed(Ask(request=uuid.uuid4().hex, what="restore", text=name), wait, timeout_s).version

    def drain(self, path: str, wait: bool = True, timeout_s: float = EFFECT_S) -> int | None:
        """Have the sphere at a path leave, or all below a node: their micro-batches go to the others, and the run goes
        on without them. Returns the newest version once they have been told to go. Raises OrderRefused if nobody is
        there."""
        return self._obeyed(Ask(request=uuid.uuid4().hex, what="drain", text=path), wait, timeout_s).version

    def _order(self, what: str, value: float | None, wait: bool, timeout_s: float) -> int | None:
        return self._obeyed(Ask(request=uuid.uuid4().hex, what=what, value=value), wait, timeout_s).version

    def _obeyed(self, ask: Ask, wait: bool, timeout_s: float) -> Answer:
        """Control's word on an order: the first one, or if that is waited for, that it is obeyed."""
        what, request = ask.what, ask.request
        answer = self._answered(ask, keep=True)
        if not wait or answer.version is not None or answer.number is None:
            self._answers.pop(request, None)
            return answer
        inbox = self._answers.setdefault(request, deque())
        try:
            deadline = time.monotonic() + timeout_s
            late = answer
            while late.ok and late.version is None:  # a question asked twice has its first answer twice
                if not self._receive(deadline, lambda: bool(inbox)):
                    raise NoAnswer(
                        f"{what} is order {answer.number}; it was not in force within {timeout_s:g} s [LW513]"
                    )
                late = inbox.popleft()
        finally:
            self._answers.pop(request, None)
        if not late.ok:
            raise OrderRefused(late.text)
        return late

    # ---------------------------------------------------------------- the wire

    def _ask(self, what: str) -> Answer:
        return self._answered(Ask(request=uuid.uuid4().hex, what=what))

    def _answered(self, ask: Ask, keep: bool = False) -> Answer:
        """The first answer. keep: others may follow."""
        inbox = self._answers.setdefault(ask.request, deque())
        deadline = time.monotonic() + self.timeout_s
        again = float("-inf")
        while not inbox:
            now = time.monotonic()
            if now >= deadline or self._is_turned_away():
                self._answers.pop(ask.request, None)
                raise self._no_answer("did not answer")
            if now >= again:
                again = now + AGAIN_S
                try:
                    self._socket.send(encode(ask), zmq.NOBLOCK)
                except zmq.Again:
                    pass  # The queue to it is full; the deadline decides.
            self._receive(min(now + LOOK_S, deadline), lambda: bool(inbox))
        answer = inbox.popleft()
        if not keep:
            self._answers.pop(ask.request, None)
        if not answer.ok:
            self._answers.pop(ask.request, None)
            raise OrderRefused(answer.text)
        return answer

    def _is_turned_away(self) -> bool:
        """Whether no answer will ever come."""
        self._handshakes.read(self._monitor)
        return self._handshakes.are_over()

    def _receive(self, deadline: float, done: Callable[[], bool]) -> bool:
        """Sort what comes until `done()`; False: the time was over first."""
        while not done():
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0 or not self._socket.poll(left_ms):
                return False
            message = decode_at_client(self._socket.recv())
            if isinstance(message, Event):
                self._events.append(message)
            elif message.request in self._answers:
                self._answers[message.request].append(message)
        return True

    def _no_answer(self, what: str) -> NoAnswer | KeyRefused:
        self._is_turned_away()
        why = self._handshakes.why_refused()
        if why:
            return KeyRefused(f"control at {self.address}: {why}")
        return NoAnswer(
            f"control at {self.address} {what} within {self.timeout_s:g} s; is the run still going, and is this its "
            "address (control.json in the run's folder)? [LW501]"
        )

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
            self._context.term()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _address(address_or_run_dir: str | os.PathLike[str]) -> str:
    """The address itself, or the one in the folder's control.json."""
    text = os.fspath(address_or_run_dir)
    if "://" in text:
        check_connect(text)
        return text
    path = Path(text) / "control.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        address, pid, host = str(about["address"]), int(about["pid"]), str(about["host"])
    except FileNotFoundError:
        raise AddressError(f"{text}: no control.json there; give a run's folder or tcp://HOST:PORT [LW505]") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AddressError(f"{path}: can't be read as a control's address: {error} [LW505]") from None
    check_connect(address)
    if host == socket.gethostname() and not _lives(pid):
        raise NoAnswer(f"{text}: its control (pid {pid}) is gone; the run is over [LW502]")
    return address


def _key(address_or_run_dir: str | os.PathLike[str], address: str) -> KeyFile | None:
    text = os.fspath(address_or_run_dir)
    folder = None if "://" in text else Path(text)
    return found_key(folder, "client", address=address) or found_key(None, "watcher", address=address)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
