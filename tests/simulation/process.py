"""A simulated process: its link to control, its turns, what ends it, and how it leaves a generation.

The link, the outbox, the place, the shares and the words are the shipped ones; what it computes, sums and fetches is a
toy. Its main thread is a generator: a `yield` is a place where anything may happen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NoReturn, TypeVar

from control.protocol import (  # fmt: skip
    LEFT,
    NO_GENERATION,
    Dial,
    Dialed,
    End,
    Failed,
    Go,
    Hello,
    Phase,
    StoreReply,
    Tick,
    ToSphere,
    View,
    Welcome,
)
from lightwatch.place import Place
from lightwatch.sync import GenerationEnded, Position
from lightwatch.sync import Wanted as Obeyed
from spheres.shares import Shares
from spheres.state import Heard
from spheres.words import position_of
from tests.simulation import laws
from tests.simulation.dials import is_reached, stack_of
from tests.simulation.group import Group, Waits
from tests.simulation.laws import Weights
from tests.simulation.link import ToyLink

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
Finds = Generator[bool, None, T]


class Leaves(Exception):
    """The process ends itself. succeeded: its supervisor starts another."""

    def __init__(self, why: str, succeeded: bool) -> None:
        super().__init__(why)
        self.succeeded = succeeded


class Left(Exception):
    """It was asked to leave, and may."""


class Process:
    """One process. pace_s: of a micro-batch, as it measures itself."""

    def __init__(self, world: World, path: str, pid: int, former: int, chance: random.Random) -> None:
        self.world, self.path, self.pid, self.chance = world, path, pid, chance
        self.identity = str(pid).encode()
        hello = Hello(run_id="run", path=path, pid=pid, host="here", former=former, port=1, stack=stack_of(world, path))
        self.link = ToyLink(self, hello, world.silence_s / 4)
        self.alive = True
        self.stopped_s = self.frozen_until_s = self.hung_until_s = 0.0
        self.breaks = False
        self.flips = ""
        self.pace_s = world.pace_of(path)
        self.place = Place()
        self.weights = Weights()
        self.holds_state = False
        self.finished = False
        self.leaves_for_s: float | None = None
        self.offered: tuple[tuple[int, int], Position, Weights] | None = None
        self.answered = (NO_GENERATION, 0.0)
        self.view: View | None = None
        self.go: Go | None = None
        self._generation = (0, 0)
        self._group: Group | None = None
        self._shares: Shares | None = None
        self._reported = -1
        self._closings = self._computing = self._units = 0
        self._look_s = float("inf")
        self.dials: list[tuple[float, Dial]] = []
        """Until when each is tried."""
        self._main = self._run()

    def __repr__(self) -> str:
        return f"{self.path}#{self.link.heard.sphere}"

    @property
    def sphere(self) -> int:
        return self.link.heard.sphere

    @property
    def generation(self) -> tuple[int, int]:
        """The one that the main thread has come to."""
        return self._generation

    @property
    def is_in(self) -> bool:
        """Whether it takes part in a generation that was told to go."""
        return self._shares is not None

    # ---------------------------------------------------------------- turns, and what ends them

    def turn(self) -> bool:
        """Hear, move, say; whether anything moved."""
        now_s, moved = self.world.now_s, False
        if self.frozen_until_s > now_s:
            return False
        self.link.turn(now_s, self.chance.choice((0, 1, 2, 8)))
        if self._look_s <= now_s:
            self._look()
        if self.dials:
            self._dial()
        if self.hung_until_s > now_s:
            return False
        for _ in range(self.chance.randrange(self.world.moves)):
            if not self.alive or not self._move():
                break
            moved = True
            self.world.strike()
        if self.alive:
            self.link.flush()
        return moved

    def _move(self) -> bool:
        try:
            return next(self._main)
        except Left:
            self.world.has_left(self)
        except StopIteration:
            self.world.say(self, "leaves, all is done")
            self.world.gone(self, succeeded=False)
        except Leaves as error:
            self.world.say(self, f"leaves: {error}")
            self.world.gone(self, error.succeeded)
        return False

    def thrown_out(self, code: int) -> None:
        """The link obeys Expelled at once, and who may leave before it trains."""
        if code == 0:
            self.world.has_left(self)
            return
        assert self.link.heard.expelled is not None
        self.world.say(self, f"is thrown out: {self.link.heard.expelled.text}")
        self.world.gone(self, succeeded=True)

    def has_heard(self, message: ToSphere) -> None:
        """A message that changed what the link knows."""
        world = self.world
        match message:
            case Tick() | StoreReply():
                return
            case View():
                world.say(self, f"is called to {message.generation} of {laws.members_of(message.members)}")
                world.heard_of(message.generation, "members", laws.members_of(message.members))
            case Go():
                world.say(self, f"is told to go {message.how.value} at {tuple(position_of(message.position))}")
                start = (message.position, message.in_force, message.known, sorted(message.deal.items()))
                world.heard_of(message.generation, "start", start)
            case End():
                closed = self.place.position.closing > 0 or not self.is_in or world.is_over(self._generation)
                laws.the_end_is_agreed(message.status == "completed", closed, self)
            case Welcome():
                world.say(self, f"is welcomed by control {message.incarnation}")
            case _:
                pass
        world.mark(f"sphere heard {type(message).__name__}")

    def _until(self, pick: Callable[[Heard], T | None]) -> Finds[T]:
        """As Link.wait."""
        while True:
            heard = self.link.heard
            found = pick(heard)
            if found is not None:
                return found
            if heard.refused is not None:
                raise Leaves(f"refused: {heard.refused.text}", succeeded=True)
            if heard.end is not None and heard.end.status == LEFT:
                raise Left
            if heard.end is not None:
                raise Leaves(f"the run has {heard.end.status}", succeeded=False)
            yield False

    def _run(self) -> Waits:
        """The main thread."""
        raise NotImplementedError

    # ---------------------------------------------------------------- out of a generation

    def _leave_generation(self) -> None:
        if self._generation != (0, 0):
            self.world.meetings.leave(self._generation, self.sphere)
        self._shares = self.go = self.offered = None

    def _freeze(self, why: str, gone: list[int], accuses: int = 0) -> None:
        self.world.say(self, f"breaks off: {why}")
        self.world.mark("generation broke")
        self.world.meetings.leave(self._generation, self.sphere)
        self.offered = None
        self.link.stand(phase=Phase.FROZEN, failed_in=self._generation, accuses=accuses, unreachable=gone)
        self._look_s = self.world.now_s + self.world.silence_s / 2

    def _break_off(self, why: str, gone: list[int] | None = None) -> NoReturn:
        self._freeze(why, gone or [])
        raise GenerationEnded(why)

    def _look(self) -> None:
        """Who can't be reached: once by whoever broke off, again and again by whoever is left out."""
        self._look_s = float("inf")
        if self._group is None or self.link.heard.ends(self._generation):
            return
        gone = self._group.gone()
        if self.sphere not in self._group.ids:
            self._look_s = self.world.now_s + self.world.silence_s / 2
        elif not gone or self.link.standing.failed_in != self._generation:
            return
        self.link.stand(unreachable=gone)

    def _dial(self) -> None:
        """Tell of each dial once all were reached, or its time is over."""
        for each in list(self.dials):
            until_s, dial = each
            gone = [peer.sphere for peer in dial.peers if not is_reached(self.world, self.path, peer.sphere)]
            if not gone or self.world.now_s >= until_s:
                self.dials.remove(each)
                self.world.mark("dial failed" if gone else "dialed")
                self.link.send(Dialed(tried=[peer.sphere for peer in dial.peers], gone=gone))

    def _sick(self, why: str) -> NoReturn:
        self.world.mark("sphere is sick")
        self.link.send(Failed(text=why, sick=True))
        raise Leaves(f"sick: {why}", succeeded=True)

    def _serve(self) -> None:
        self.offered = (self._generation, self.place.position, self.weights)

    def _obeyed(self, number: int) -> Obeyed:
        if number == 0:
            return Obeyed()
        order = self.link.heard.orders[number - 1]
        return Obeyed(order.number, order.paused, order.stopped, order.learning_rate)
