"""Talk to a running control from another process: questions, orders, and the run's story.

Each request has an id and is sent again until it is answered; control acts on an id once, also a control that was
started anew, for orders are in its ledger. Every call ends within its time: with an answer, OrderRefused, or NoAnswer.
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

import msgspec
import zmq

from .awaited import awaited
from .config import check_connect
from .errors import AddressError, KeyRefused, NoAnswer, OrderRefused
from .handshakes import EVENTS, Handshakes
from .keyfile import KeyFile, found_key, lock, read_key
from .process import ControlProcess as ControlProcess
from .protocol import Answer, Ask, Event
from .status import Health, NodeStats, SavedCheckpoint, Status
from .terms import WORD_MOST
from .wire import decode_at_client, encode

AGAIN_S = 1.0
SILENT_S = 5.0
"""Where nothing comes for so long, no answer to libzmq's own heartbeat either, the connection is made anew: control may
be elsewhere by now, or the way to it cut."""
LOOK_S = 0.2
"""How soon it is noticed that control does not take the key."""
EFFECT_S = 60.0
"""How long an order may take to be in force: a step has to end first, and a step takes as long as it takes."""

TELL_EVERY = 100
"""So many lines of the story are read before control is told that they were."""
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
        self.on_wait: Callable[[int], None] = lambda number: None
        """Called with the number of an order that is waited for: at once, and each second until it is obeyed."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # as at control's door; so far ahead of its reader control does not get
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, int(1000 * AGAIN_S))
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(1000 * SILENT_S))
        self._socket.setsockopt(zmq.IPV6, int("[" in self.address))
        lock(self._socket, own)
        self._handshakes = Handshakes(keyed=own is not None, tries=TRIES)
        self._monitor = self._socket.get_monitor_socket(EVENTS)
        self._socket.connect(self.address)
        self._answers: dict[str, deque[Answer]] = {}
        self._events: deque[Event] = deque()  # control sends no more than a reader follows
        self._read = 0
        self._closed = False

    # ---------------------------------------------------------------- questions

    def status(self) -> Status:
        """The run as control sees it now."""
        status = self._ask("status").status
        if status is None:
            raise self._of_another_version("status")
        return status

    def tree(self) -> str:
        """The tree as lines of text, with what each sphere does."""
        return self._ask("tree").text

    def health(self) -> Health:
        """How each sphere is: computing, waiting, stuck or lost; its CPU and memory, and when it was heard last."""
        health = self._ask("health").health
        if health is None:
            raise self._of_another_version("health")
        return health

    def stats(self) -> dict[str, NodeStats]:
        """What was done at and under each node of the tree, by its path; "" is the root and so the whole run."""
        stats = self._ask("stats").stats
        if stats is None:
            raise self._of_another_version("statistics")
        return {node.path: node for node in stats}

    def list_checkpoints(self) -> list[SavedCheckpoint]:
        """What was saved since the run began or was resumed, the oldest first; at most the newest 64.

        Control knows what became whole. What was pruned since, only the disk knows: `lightwatch checkpoints list`.
        """
        found = self._ask("checkpoints").checkpoints
        if found is None:
            raise self._of_another_version("checkpoints")
        return found

    def wait_for(self, *, version: int | None = None, state: str | None = None, timeout_s: float = EFFECT_S) -> Status:
        """Block until the run has this version or is in this state: initializing, running, paused, stopping, stopped.

        Give one of the two. Returns the status then. Raises OrderRefused when it can't come any more, NoAnswer when it
        has not come within timeout_s.
        """
        if (version is None) == (state is None):
            raise OrderRefused("wait_for: give either a version or a state [LW002]")
        value = None if version is None else float(version)
        ask = Ask(request=uuid.uuid4().hex, what="wait", value=value, text=state or "")
        what = f"version {version}" if state is None else f"state {state}"
        self._send(ask)
        found = self._late(ask, timeout_s, lambda answer: answer.status is not None)
        if found is None:
            status = self.status()
            where = f"it is {status.state} at version {status.version}"
            raise NoAnswer(f"the run did not come to {what} within {timeout_s:g} s; {where} [LW513]")
        if found.status is None:
            raise self._of_another_version("status")
        return found.status

    def events(self) -> Iterator[Event]:
        """The run's story from now on: rows, spheres, generations, orders; the last one's kind is "end".

        A "state" with the whole status comes at least every second, so a control that dies raises NoAnswer. Who reads
        too slowly misses lines and is told so: "lost", with their number.
        """
        first = self._ask("watch")
        if first.status is not None:
            yield Event(kind="state", text=first.status.state, status=first.status)
        while True:
            while self._events:
                event = self._events.popleft()
                self._read += 1
                if self._read % TELL_EVERY == 0 or event.kind == "state":
                    self._tell_read()
                yield event
                if event.kind == "end":
                    return
            if not self._receive(time.monotonic() + self.timeout_s, lambda: bool(self._events)):
                raise self._no_answer("went silent")

    # ---------------------------------------------------------------- orders

    # Each returns once the order is obeyed, with the version, or None if that is not waited for. request: an id of
    # one's own; given again, also to a control that was started anew, it acts once.

    def pause(self, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = "") -> int | None:
        """All spheres stop between two steps, at the same version. Returns it; None if not waited for."""
        return self._order("pause", wait, timeout_s, request=request)

    def resume(self, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = "") -> int | None:
        """Go on after a pause. Returns the version from which it is in force."""
        return self._order("resume", wait, timeout_s, request=request)

    def stop(self, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = "") -> int | None:
        """End the run early, whole: all spheres at the same version. Returns it. Overtakes whatever else was asked."""
        return self._order("stop", wait, timeout_s, request=request)

    def set_learning_rate(
        self, rate: float, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = ""
    ) -> int | None:
        """Another base rate for the schedule. Returns the version after which the first update uses it."""
        return self._order("set_learning_rate", wait, timeout_s, value=rate, request=request)

    def rebalance(self, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = "") -> int | None:
        """Deal the micro-batches anew, now, by how fast each sphere was in its newest steps. No bit depends on it.

        Control does this by itself where it saves a notable part of the time. Returns the version from which the deal
        is in force. Raises OrderRefused before the first versions.
        """
        return self._order("rebalance", wait, timeout_s, request=request)

    def terminate_sphere(
        self, path: str, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = ""
    ) -> int | None:
        """Throw the sphere at `path` out for good: it ends, nobody starts it anew, and no other is let in there until
        `spawn_sphere`, or until the run is resumed. The others compute what it leaves. Returns the first version that
        they agreed on without it.

        Raises OrderRefused for a path that is none, and for the last sphere that holds the run's state.
        """
        return self._order("terminate", wait, timeout_s, text=path, request=request)

    def spawn_sphere(
        self, path: str, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = ""
    ) -> int | None:
        """Have a sphere again at `path`, where one was terminated. Returns the version from which one is let in; None
        if none was terminated there, for then nothing is ordered.

        The launcher of the run starts it within a second; a machine that joined joins again. It takes part as soon as
        it has fetched the weights: `health` shows it. Raises OrderRefused for a path that is none.
        """
        return self._order("spawn", wait, timeout_s, text=path, request=request)

    def checkpoint(
        self, name: str = "", wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = ""
    ) -> str | None:
        """Save the next version, under a name or its own. Returns the folder's name once all of it is on the disk; None
        if not waited for. Raises OrderRefused, also when the disk refuses."""
        ask = Ask(request=request or uuid.uuid4().hex, what="checkpoint", text=name)
        return self._obeyed(ask, wait, timeout_s).checkpoint or None

    def restore(
        self, name: str = "", wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = ""
    ) -> int | None:
        """Take the run back to a checkpoint, by its folder's name, or to the newest. Returns the version from which it
        goes on. What was ordered last stays ordered. Raises OrderRefused if it can't be read as a whole."""
        return self._order("restore", wait, timeout_s, text=name, request=request)

    def drain(self, path: str, wait: bool = True, timeout_s: float = EFFECT_S, *, request: str = "") -> int | None:
        """Have the sphere at a path leave, or all below a node: the others take their micro-batches and go on without
        them, and nothing is computed twice; where nobody stays, a checkpoint is written first. Returns the newest
        version once they have been told to go. Raises OrderRefused if nobody is there."""
        return self._order("drain", wait, timeout_s, text=path, request=request)

    def _order(self, what: str, wait: bool, timeout_s: float, request: str, **more: float | str) -> int | None:
        if len(request) > WORD_MOST:
            raise OrderRefused(f"{what}: a request has at most {WORD_MOST} letters, got {len(request)} [LW002]")
        ask = msgspec.structs.replace(Ask(request=request or uuid.uuid4().hex, what=what), **more)
        return self._obeyed(ask, wait, timeout_s).version

    def _obeyed(self, ask: Ask, wait: bool, timeout_s: float) -> Answer:
        """Control's word on an order: the first one, or if that is waited for, that it is obeyed."""
        answer = self._answered(ask, keep=True)
        if not wait or answer.version is not None or answer.number is None:
            self._answers.pop(ask.request, None)
            return answer
        number = answer.number
        self.on_wait(number)
        found = self._late(ask, timeout_s, lambda late: late.version is not None, number)
        if found is None:
            which = f"{ask.what} is order {number}, which stands; it was not in force within {timeout_s:g} s"
            raise NoAnswer(f"{which}: {awaited(self.status(), number)} [LW513]")
        return found

    def _late(self, ask: Ask, timeout_s: float, is_last: Callable[[Answer], bool], order: int = 0) -> Answer | None:
        """The answer to what takes its time; None if it did not come. Asked again now and then: control may be another
        process by then, which knows the order, but not who waits for it. order: its number."""
        inbox = self._answers.setdefault(ask.request, deque())
        deadline, again = time.monotonic() + timeout_s, time.monotonic() + AGAIN_S
        try:
            while (now := time.monotonic()) < deadline:
                if now >= again:
                    again = now + AGAIN_S
                    self._send(ask)
                    if order:
                        self.on_wait(order)
                if self._receive(min(again, deadline), lambda: bool(inbox)):
                    answer = inbox.popleft()
                    if not answer.ok:
                        raise OrderRefused(answer.text)
                    if is_last(answer):  # a question asked twice has its first answer twice
                        return answer
            return None
        finally:
            self._answers.pop(ask.request, None)

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
                self._send(ask)
            self._receive(min(now + LOOK_S, deadline), lambda: bool(inbox))
        answer = inbox.popleft()
        if not keep:
            self._answers.pop(ask.request, None)
        if not answer.ok:
            self._answers.pop(ask.request, None)
            raise OrderRefused(answer.text)
        return answer

    def _send(self, ask: Ask) -> None:
        try:
            self._socket.send(encode(ask), zmq.NOBLOCK)
        except zmq.Again:
            pass  # The queue to it is full; the deadline decides.

    def _tell_read(self) -> None:
        self._send(Ask(request="", what="heard", value=float(self._read)))

    def _of_another_version(self, what: str) -> NoAnswer:
        return NoAnswer(f"control at {self.address} answered without a {what}; is it of this version? [LW506]")

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
        address, pid, host = str(about["address"]), int(about.get("pid", 0)), str(about.get("host", ""))
    except FileNotFoundError:
        raise AddressError(f"{text}: no control.json there; give a run's folder or tcp://HOST:PORT [LW505]") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AddressError(f"{path}: can't be read as a control's address: {error} [LW505]") from None
    check_connect(address)
    if pid and host == socket.gethostname() and not _lives(pid):
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
