"""Many spheres in one process, without torch: each says to control over a connection of its own what a sphere says.

What is played is the training alone: all make a step at the same moment, every `step_s`, and what all have seen is in
force from then on. A sphere answers a View, a Go and an order at once. When one dies, those under its node find out at
once, as their collectives break; nobody else does.
"""

from __future__ import annotations

import os
import select
import time
import uuid
from collections.abc import Callable, Sequence

from control.protocol import (
    NO_GENERATION,
    Answer,
    Ask,
    Beat,
    Expelled,
    Generation,
    Go,
    Hello,
    Orders,
    Phase,
    Position,
    Proof,
    Ready,
    Refused,
    Row,
    ToSphere,
    View,
    Welcome,
)
from control.status import Traffic
from control.wire import decode_at_client, decode_at_sphere, encode

from .processes import Cannot
from .wire import Wire

FINGERPRINT = {"lightwatch": "0", "torch": "2", "threads": "1", "reduction": "exact", "probe": "abc"}
SECONDS = {"data": 0.01, "compute": 0.7, "wait": 0.1, "reduce": 0.15, "update": 0.03, "step": 1.0}
LARGE = 2_048
IN_FLIGHT = 256
"""So many come at once; the next ones once these are seated."""


class Player:
    """One sphere."""

    def __init__(self, path: str, pid: int, former: int = 0) -> None:
        self.path, self.pid, self.former = path, pid, former
        self.wire: Wire | None = None
        self.sphere = 0
        self.generation: Generation = NO_GENERATION
        self.failed_in: Generation = NO_GENERATION
        self.phase = Phase.STARTING
        self.seen = 0
        self.incarnation = 0
        self.beats = 0
        self.begun: Generation = NO_GENERATION
        """The generation of the newest Go."""
        self.holds = False


class Crowd:
    """All spheres of a run, and the client that orders. Close it. Raises Cannot: control said what it should not."""

    def __init__(self, address: str, paths: Sequence[str], *, beat_s: float, step_s: float) -> None:
        self.host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self.port = int(port)
        self.beat_s, self.step_s = beat_s, step_s
        self.micro_batches = len(paths)
        self.version = 0
        self.in_force = 0
        self.players: dict[str, Player] = {}
        self.answers: dict[str, Answer] = {}
        self.views = 0
        self.frames = 0
        self._waiting = list(reversed(paths))
        self._pids = 1
        self._seated = 0
        self._by_descriptor: dict[int, Player] = {}
        self._epoll = select.epoll()
        self._large: tuple[bytes, ToSphere] | None = None
        self._beaten = 0
        self._began_s = self._stepped_s = time.monotonic()
        self._ring: list[Player] = []
        self._asked = 0
        self._client: Wire | None = None

    # ------------------------------------------------------------ time passes

    def until(self, holds: Callable[[], bool], within_s: float, what: str) -> float:
        """Play until it holds; how many seconds that took."""
        began_s = time.monotonic()
        while not holds():
            self.turn()
            if time.monotonic() - began_s > within_s:
                raise Cannot(f"{len(self.players)} spheres waited {within_s:g} s in vain for {what}")
        return time.monotonic() - began_s

    def play(self, seconds: float) -> None:
        """Play for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.turn()

    def turn(self, most_s: float = 0.005) -> None:
        """Hear what has come, and say what is due."""
        while self._waiting and len(self.players) - self._seated < IN_FLIGHT:
            self._come(self._waiting.pop())
        for descriptor, event in self._epoll.poll(most_s):
            player = self._by_descriptor.get(descriptor)
            if player is None:
                self._hear_client()
                continue
            wire = player.wire
            assert wire is not None
            if event & select.EPOLLOUT and wire.flush():
                self._epoll.modify(descriptor, select.EPOLLIN)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._hear(player, wire)
        now_s = time.monotonic()
        if now_s - self._stepped_s >= self.step_s:
            self._stepped_s = now_s
            self._step()
        due = int((now_s - self._began_s) / self.beat_s * max(len(self._ring), 1))
        for number in range(self._beaten, min(due, self._beaten + len(self._ring))):
            self._beat(self._ring[number % len(self._ring)], ping=number // len(self._ring) % 2 == 0)
        self._beaten = due

    def _step(self) -> None:
        """All have made the next version, if all are in one generation that nobody has broken."""
        running = self.running()
        if not running or any(
            player.begun != running[0].begun or player.failed_in != NO_GENERATION for player in running
        ):
            return
        if len(running) != len(self.players):
            return
        self.version += 1
        self.in_force = min(player.seen for player in running)
        for player in running:
            self._say(player, self._row(player))

    # ------------------------------------------------------------ what happens

    def running(self) -> list[Player]:
        """Those that compute."""
        return [player for player in self.players.values() if player.phase is Phase.COMPUTING]

    def all_run(self, after: Generation = NO_GENERATION) -> bool:
        """Whether everybody who lives computes, in one generation, newer than `after`."""
        if self._waiting:
            return False
        generations = {player.begun if player.phase is Phase.COMPUTING else None for player in self.players.values()}
        return len(generations) == 1 and (newest := generations.pop()) is not None and newest > after

    @property
    def generation(self) -> Generation:
        """The newest that anybody has heard of."""
        return max((player.generation for player in self.players.values()), default=NO_GENERATION)

    def lose(self, paths: Sequence[str], *, witnessed: bool) -> list[Player]:
        """These die at once. witnessed: their neighbours' collectives break."""
        dead = [self.players.pop(path) for path in paths]
        for player in dead:
            assert player.wire is not None
            del self._by_descriptor[player.wire.socket.fileno()]
            player.wire.close()
        self._seated -= len(dead)
        self._ring = list(self.players.values())
        nodes = {path.rpartition("/")[0] for path in paths}
        for player in self.players.values():
            if witnessed and player.path.rpartition("/")[0] in nodes:
                player.phase, player.failed_in = Phase.FROZEN, player.begun
                self._beat(player)
        return dead

    def come_back(self, dead: Sequence[Player]) -> None:
        """Each has a successor, started by a supervisor that has seen it dead."""
        for player in dead:
            self._come(player.path, former=player.pid)

    def ask(self, what: str, value: float | None = None) -> str:
        """The client asks; its request, under which `answers` will have the newest answer."""
        if self._client is None:  # not before: a connection that says nothing for long is closed
            self._client = Wire(self.host, self.port, uuid.uuid4().bytes)
            self._epoll.register(self._client.socket, select.EPOLLIN)
            self.until(lambda: self._client is not None and self._client.open, 10.0, "the client's handshake")
        self._asked += 1
        request = f"r{self._asked}"
        self._client.send(encode(Ask(request=request, what=what, value=value)))
        return request

    def close(self) -> None:
        for player in self.players.values():
            if player.wire is not None:
                player.wire.close()
        if self._client is not None:
            self._client.close()
        self._epoll.close()

    # ------------------------------------------------------------ hearing

    def _hear(self, player: Player, wire: Wire) -> None:
        was_open = wire.open
        for message in wire.receive():
            self.frames += 1
            self._heard(player, self._decoded(message))
        if wire.closed:
            raise Cannot(f"control hung up on sphere {player.path}")
        if wire.open and not was_open:
            hello = Hello(run_id="bench", path=player.path, pid=player.pid, host="bench", former=player.former)
            self._say(player, hello)

    def _hear_client(self) -> None:
        assert self._client is not None
        for message in self._client.receive():
            answer = decode_at_client(message)
            if isinstance(answer, Answer):
                self.answers[answer.request] = answer

    def _decoded(self, message: bytes) -> ToSphere:
        """Each reads its own; the same large one as the last is not taken apart again."""
        if len(message) < LARGE:
            return decode_at_sphere(message)
        if self._large is None or self._large[0] != message:
            self._large = message, decode_at_sphere(message)
        return self._large[1]

    def _heard(self, player: Player, message: ToSphere) -> None:
        match message:
            case Welcome():
                player.sphere, player.incarnation, player.phase = message.sphere, message.incarnation, Phase.ADMITTED
                self._seated += 1
                self._say(player, Proof(fingerprint=FINGERPRINT, micro_batches=self.micro_batches, max_steps=10**6))
            case View():
                self.views += 1
                player.generation, player.phase = message.generation, Phase.FROZEN
                player.seen = max([player.seen, *(order.number for order in message.orders)])
                self._say(player, self._ready(player))
                self._beat(player)
            case Go():
                player.begun, player.phase, player.failed_in = message.generation, Phase.COMPUTING, NO_GENERATION
                player.holds = True
                self._beat(player)
            case Orders():
                player.seen = max(player.seen, message.orders[-1].number)
                self._beat(player)
            case Refused() | Expelled():
                raise Cannot(f"control to sphere {player.path}: {message.text}")
            case _:
                pass

    # ------------------------------------------------------------ saying

    def _come(self, path: str, former: int = 0) -> None:
        self._pids += 1
        player = Player(path, self._pids, former)
        player.wire = Wire(self.host, self.port, uuid.uuid4().bytes)
        self.players[path] = player
        self._ring = list(self.players.values())
        self._by_descriptor[player.wire.socket.fileno()] = player
        self._epoll.register(player.wire.socket, select.EPOLLIN)

    def _say(self, player: Player, message: Hello | Proof | Beat | Ready | Row) -> None:
        wire = player.wire
        assert wire is not None
        wire.send(encode(message))
        if not wire.flush():
            self._epoll.modify(wire.socket, select.EPOLLIN | select.EPOLLOUT)

    def _position(self) -> Position:
        return Position(version=self.version)

    def _ready(self, player: Player) -> Ready:
        founding = self.version == 0
        return Ready(
            generation=player.generation,
            position=self._position(),
            holds_state=player.holds or founding,
            digest="d0" if founding else None,
            in_force=self.in_force,
        )

    def _beat(self, player: Player, ping: bool = False) -> None:
        if not player.sphere or player.wire is None:
            return
        player.beats += 1
        beat = Beat(
            generation=player.generation,
            number=player.beats,
            phase=player.phase,
            position=self._position(),
            units_done=1,
            units_dealt=1,
            failed_in=player.failed_in,
            seen=player.seen,
            in_force=self.in_force,
            incarnation=player.incarnation,
            rss_bytes=10**9,
            cpu_s=self.version + 0.5,
        )
        self._say(player, beat)
        if ping:
            player.wire.ping()

    def _row(self, player: Player) -> Row:
        levels = player.path.count("/") + 1
        return Row(
            generation=player.begun,
            version=self.version,
            loss=1.0 / self.version,
            learning_rate=1e-3,
            grad_norm=1.0,
            weight=4096,
            samples=32,
            in_force=self.in_force,
            check=self.version,
            clip_ratio=1.0,
            slowest=next(iter(self.players)),
            seconds=SECONDS,
            own_units=1,
            own_samples=4,
            own_weight=512,
            traffic=[Traffic(level=level, up=4 * 10**6, down=4 * 10**6) for level in range(levels)],
        )


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken, all its threads, as its kernel has it; Linux only."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """What is resident now."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
