"""The pure core on a stage: facts in, messages out, a clock that only the test moves. No sockets, no files."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from control.admit import Fenced, FromMember, NotYet, Refusal, admit, admit_hello, admit_order
from control.apply import apply
from control.events import (
    Event,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    Remembered,
    RunEnded,
    Sent,
    SphereCame,
    SphereLost,
)
from control.generations import seats_here
from control.plan import Decide, Send, plan
from control.protocol import (
    Ask,
    Beat,
    Closed,
    Failed,
    Generation,
    Go,
    Hello,
    Part,
    Phase,
    Position,
    Proof,
    Ready,
    Row,
    SaveState,
    Saving,
    ToSphere,
)
from control.state import State

FINGERPRINT = {"torch": "2", "threads": "1", "reduction": "exact"}

M = TypeVar("M", bound=msgspec.Struct)


class Play:
    """One run of control's core. `sent` holds what went out since it was last emptied."""

    def __init__(self, *paths: str, silence_s: float = 5.0) -> None:
        self.state = State(run_id="run", paths=paths or ("0", "1"), silence_s=silence_s)
        self.now_s = 0.0
        self.sent: list[tuple[int, ToSphere]] = []
        self.facts: list[Event] = []
        self.numbers: dict[int, int] = {}

    @property
    def members(self) -> list[str]:
        """Of the newest generation proposed."""
        return [member.path for member in self.state.members]

    @property
    def begun(self) -> GenerationBegun:
        """The running generation."""
        assert self.state.begun is not None, "nobody was told to go"
        return self.state.begun

    def happen(self, event: Event) -> None:
        self.facts.append(event)
        self.state = apply(self.state, event)

    def settle(self) -> None:
        """Until plan has nothing more to do; more than a few rounds would be a plan that never ends."""
        for _ in range(20):
            effects = plan(self.state, self.now_s)
            if not effects:
                return
            for effect in effects:
                match effect:
                    case Decide(event):
                        self.happen(event)
                    case Send(sphere, message):
                        self.sent.append((sphere, message))
                        self.happen(Sent(sphere=sphere, message=message, at_s=self.now_s))
        raise AssertionError("plan has no end")

    def wait(self, seconds: float) -> None:
        """Let time pass in which nobody says anything."""
        self.now_s += seconds
        self.settle()

    def keep_beating(self, seconds: float, *paths: str, **fields: object) -> None:
        """Let time pass in which these spheres' heartbeats go on as they are, and nobody else's."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            for path in paths:
                self.beat(path, **fields)  # type: ignore[arg-type]
            self.wait(min(0.1 * self.state.silence_s, until_s - self.now_s + 1e-9))

    def told(self, kind: type[M]) -> dict[int, M]:
        """The last message of a kind to each sphere, since `sent` was emptied."""
        return {sphere: message for sphere, message in self.sent if isinstance(message, kind)}

    @property
    def ended(self) -> RunEnded:
        assert self.state.ended is not None, "the run has not ended"
        return self.state.ended

    @property
    def generation(self) -> Generation:
        return self.state.generation

    # ---------------------------------------------------------------- what spheres say

    def hello(self, path: str, pid: int = 0, run_id: str = "run", sphere: int = 0, former: int = 0) -> str:
        """Why it was refused, or nothing."""
        pid = pid or 99 + self.state.next_sphere
        hello = Hello(run_id=run_id, path=path, pid=pid, host="here", sphere=sphere, former=former)
        return self.knock(hello)

    def knock(self, hello: Hello, key: str = "") -> str:
        """The same for any Hello, over a connection that has proved this key."""
        event = admit_hello(self.state, hello, self.now_s, key)
        if isinstance(event, Remembered):
            self.happen(event)
            event = admit_hello(self.state, hello, self.now_s, key)
        if isinstance(event, Refusal | Fenced | NotYet):
            return "not yet" if isinstance(event, NotYet) else event.text
        self.happen(event)
        self.settle()
        return ""

    def say(self, path: str, message: FromMember) -> bool:
        """Whether control took it for a fact."""
        seat = self.state.seat_at(path)
        assert seat is not None
        event = admit(self.state, seat.sphere, message, self.now_s)
        if event is not None:
            self.happen(event)
        self.settle()
        return event is not None

    def prove(self, path: str, micro_batches: int = 8, **fingerprint: str) -> bool:
        proof = Proof(fingerprint=FINGERPRINT | fingerprint, micro_batches=micro_batches, max_steps=10)
        return self.say(path, proof)

    def ready(self, path: str, digest: str | None = "d0", version: int = 0, **fields: object) -> bool:
        position = Position(version=version)
        ready = Ready(generation=self.generation, position=position, holds_state=True, digest=digest)
        return self.say(path, msgspec.structs.replace(ready, **fields))

    def beat(self, path: str, phase: Phase = Phase.COMPUTING, version: int = 0, **fields: object) -> bool:
        self.numbers[0] = self.numbers.get(0, 0) + 1
        beat = Beat(
            generation=self.generation,
            number=self.numbers[0],
            phase=phase,
            position=Position(version=version),
            seen=len(self.state.orders),
        )
        return self.say(path, msgspec.structs.replace(beat, **fields))

    def row(self, path: str, version: int, check: int = 1, **fields: object) -> bool:
        row = Row(generation=self.generation, version=version, check=check)
        return self.say(path, msgspec.structs.replace(row, **fields))

    def save(self, path: str, state: SaveState, version: int = 5, **fields: object) -> bool:
        """A writer's word of a save; all members write, each a part of its own."""
        name = f"{version}-{path}"
        sealed = state is SaveState.SEALED
        saving = Saving(
            generation=self.generation,
            lineage=self.state.lineage,
            version=version,
            folder=f"step-{version}",
            writers=[member.sphere for member in self.state.members],
            state=state,
            saves=self.state.wanted.saves,
            part=Part(name=name, bytes=100, sha256=f"h{name}") if sealed or state is SaveState.WRITTEN else None,
            digest=f"d{version}" if sealed else "",
            manifest_sha256="m5" if sealed else "",
            why="the disk is full [LW601]" if state is SaveState.FAILED else "",
        )
        return self.say(path, msgspec.structs.replace(saving, **fields))

    def close(self, path: str, version: int = 10, digest: str = "d", reason: str = "completed") -> bool:
        return self.say(path, Closed(generation=self.generation, version=version, digest=digest, reason=reason))

    def fail(self, path: str, text: str) -> bool:
        return self.say(path, Failed(text=text))

    def lose(self, path: str) -> None:
        """Its connection closes."""
        seat = self.state.seat_at(path)
        assert seat is not None
        self.happen(SphereLost(sphere=seat.sphere, at_s=self.now_s))
        self.settle()

    def order(self, what: str, value: float | None = None, request: str = "", text: str = "") -> str:
        """Why it was refused, or that it was given already, or nothing."""
        event = admit_order(self.state, Ask(request=request, what=what, value=value, text=text))
        if isinstance(event, OrderGiven):
            self.happen(event)
            self.settle()
            return ""
        return event.text

    # ---------------------------------------------------------------- scenes

    def gather(self) -> Play:
        """Everybody has come and proved itself; the View has been sent."""
        for path in self.state.paths:
            assert not self.hello(path)
        for path in self.state.paths:
            self.prove(path)
        return self

    def begin(self) -> Play:
        """Everybody is told to go and computes."""
        self.gather()
        for path in self.state.paths:
            self.ready(path)
        assert self.told(Go)
        for path in self.state.paths:
            self.beat(path)
        self.sent.clear()
        return self

    def came(self) -> list[str]:
        return [event.hello.path for event in self.facts if isinstance(event, SphereCame)]


def called(play: Play) -> Play:
    """The next roll call of everybody who is here."""
    generation = (play.generation[0], play.generation[1] + 1)
    members = tuple(seat.member for seat in seats_here(play.state, play.now_s))
    play.happen(GenerationProposed(generation=generation, members=members, at_s=0.0))
    return play
