"""Whoever gives orders: each until it is answered with its version, some several times over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control.protocol import Answer, Ask
from control.wire import encode
from tests.simulation import laws

if TYPE_CHECKING:
    from tests.simulation.world import World

AGAIN_S = 2.0
"""In silence_s: what was not answered is asked again, under the same name."""


class Client:
    """numbers, versions: what requests and orders were answered with."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asks: dict[str, Ask] = {}
        self._asked_s: dict[str, float] = {}
        self._idle: set[str] = set()
        """Requests that made no order, for what they asked was wanted already: repeated later, they may make one."""
        self._rate = 0.0
        self.numbers: dict[str, int] = {}
        self.versions: dict[int, int] = {}

    def order(self, what: str) -> None:
        """Give a new order; what control has not taken by now is given up: it would come after it. Rates only rise."""
        self._asked_s = {each: at_s for each, at_s in self._asked_s.items() if each in self.numbers}
        request = str(len(self._asks) + 1)
        if what == "rate":
            self._rate += 1.0
            ask = Ask(request=request, what="set_learning_rate", value=self._rate)
        else:
            ask = Ask(request=request, what=what)
        self._world.say("client", f"asks to {ask.what} {ask.value or ''}".rstrip())
        self._asks[request] = ask
        self._ask(ask)

    def again(self, luck: float) -> None:
        """Repeat one that made an order."""
        known = [ask for request, ask in self._asks.items() if request in self.numbers]
        if known:
            ask = known[int(luck * len(known))]
            self._world.say("client", f"repeats request {ask.request}")
            self._ask(ask)

    def turn(self) -> None:
        """Ask again what nobody answered."""
        for request, at_s in list(self._asked_s.items()):
            if self._world.now_s - at_s > AGAIN_S * self._world.silence_s:
                self._ask(self._asks[request])

    def _ask(self, ask: Ask) -> None:
        self._asked_s[ask.request] = self._world.now_s
        if self._world.host.acts:
            self._world.host.gate.asked.append(encode(ask))

    def hear(self, answer: Answer) -> None:
        """All that was ever answered has to fit together."""
        self._world.mark("order answered" if answer.ok else "order refused")
        if "[LW515]" in answer.text:
            return  # control does not know the run yet: it is asked again
        if not answer.ok or answer.number == 0 or answer.version is not None:
            self._asked_s.pop(answer.request, None)
        if not answer.ok or not answer.number:
            return
        laws.an_order_is_given_once(self.numbers.get(answer.request), answer.number, answer.request)
        if "already" in answer.text and "given already" not in answer.text:
            self._idle.add(answer.request)
        if answer.request not in self._idle:
            self.numbers[answer.request] = answer.number
        if answer.version is not None:
            laws.an_order_takes_effect_once(self.versions.get(answer.number), answer.version, answer.number)
            if answer.number not in self.versions:
                self._world.say("client", f"order {answer.number} holds from version {answer.version}")
            self.versions[answer.number] = answer.version

    def give_up(self) -> None:
        """Nobody waits any more for what was not answered: it would come after what is asked now."""
        self._asked_s.clear()
        self._world.host.gate.asked.clear()

    def forget(self) -> None:
        """The ledger that knew of it is lost."""
        self.numbers.clear()
        self.versions.clear()
        self._asked_s.clear()
