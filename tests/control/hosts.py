"""A stage on which spheres come from hosts of their own, between which a network may be closed."""

from __future__ import annotations

from control.newcomers import DIAL_S
from control.protocol import Dial, Dialed, Hello, Phase
from control.state import State
from tests.control.play import Play


def host_of(path: str) -> str:
    return path.rpartition("/")[0]


class Hosts(Play):
    """Paths are HOST/SLOT, or what else ends in a slot. closed: (from, to) hosts between which nothing comes
    through; mute: who answers no Dial."""

    def __init__(self, wait_for: int, silence_s: float = 1.0) -> None:
        super().__init__(silence_s=silence_s)
        self.state = State(run_id="run", paths=(), tree=f"*:{wait_for}", silence_s=silence_s)
        self.closed: set[tuple[str, str]] = set()
        self.mute: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def come(self, *paths: str, stack: str = "", address: str = "") -> None:
        """These have come and proved that they fit; what they are asked to dial is answered."""
        for path in paths:
            host, pid = host_of(path), 99 + self.state.next_sphere
            named, at = stack or f"stack of {host}", address or f"at {host}"
            hello = Hello(run_id="run", path=path, pid=pid, host=host, stack=named, address=at, port=9)
            assert not self.knock(hello)
            self.prove(path)
        self.answer()
        if any(each.found is False for each in self.state.reach.asked.values()):
            self.all_live(DIAL_S + 0.1)

    def all_live(self, seconds: float) -> None:
        """Time passes in which everybody who is connected beats."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            for seat in [each for each in self.state.seats.values() if each.connected and not each.refused]:
                member = seat.path in self.members
                self.beat(seat.path, Phase.COMPUTING if member else Phase.ADMITTED, generation=self.generation)
            self.wait(0.1)
        self.answer()

    def answer(self) -> None:
        """Every Dial that was sent since the last time, but of the mute; again, for an answer may lead to the next."""
        while dials := [(sphere, message) for sphere, message in self.sent if isinstance(message, Dial)]:
            self.sent = [each for each in self.sent if each not in dials]
            for sphere, dial in dials:
                path = self.state.seats[sphere].path
                self.asked += [(path, peer.path) for peer in dial.peers]
                gone = [peer.sphere for peer in dial.peers if (host_of(path), host_of(peer.path)) in self.closed]
                if path not in self.mute:
                    self.say(path, Dialed(tried=[peer.sphere for peer in dial.peers], gone=gone))

    def shut(self, host: str, *others: str, outwards: bool = False) -> None:
        """Nothing comes to this host from the others; outwards: nor to them from it, instead."""
        self.closed |= {(host, other) if outwards else (other, host) for other in others}

    def train(self, *paths: str) -> None:
        """The generation that was called begins, and makes versions."""
        assert self.members == list(paths)
        for path in paths:
            self.ready(path)
        for path in paths:
            self.beat(path)
        self.sent.clear()

    def refused(self) -> dict[str, str]:
        return {seat.path: seat.refused for seat in self.state.seats.values() if seat.refused}


def of_two(silence_s: float = 1.0) -> Hosts:
    """North and south train."""
    play = Hosts(2, silence_s)
    play.come("north/0", "south/0")
    play.wait(0.3 * silence_s)
    play.train("north/0", "south/0")
    play.asked.clear()
    return play


def later(play: Hosts, seconds: float = 0.3) -> None:
    """Time passes in which all who are members compute on."""
    play.keep_beating(seconds, *play.members)
    play.answer()
