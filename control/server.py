"""The loop around the pure core: messages in, facts to the ledger, then messages out.

One turn: hear what has come, turn it into facts (`admit`), write and apply them, ask `plan` until it has nothing left,
commit, send. So what a sphere or a client hears is in the ledger already.

Everything runs in one thread: a ledger write that waits for the disk holds the loop for some ms. Control's clock
therefore counts its own awake time: a turn that comes late extends every deadline by the delay.
"""

from __future__ import annotations

import logging
import os
import time

from msgspec.structs import replace

from .admit import ORDERS, Already, Fenced, NotYet, Refusal, admit, admit_order, refused, superseded
from .apply import apply
from .checkup import CheckUp
from .clients import Clients, is_urgent
from .clock import AwakeClock
from .config import Settings
from .crash import here
from .door import BATCH, Arrived, Door
from .entrance import Brief
from .errors import LedgerError, why_broken
from .events import (
    DURABLE,
    Event,
    GenerationBegun,
    GenerationProposed,
    Remembered,
    RunEnded,
    Sent,
    SphereBeat,
    SphereExpelled,
    SphereLost,
    SphereProved,
    SphereReported,
    SphereReturned,
)
from .guard import Guard
from .journal import Journal
from .keys import Keys
from .ledger import Ledger
from .losses import is_expected, mute
from .membership import differences, of_revoked
from .outgoing import Outgoing
from .plan import Decide, Send, plan, rest_s
from .protocol import Answer, Ask, Beat, Expelled, FromSphere, Hello, Row, StoreRequest, Welcome
from .recall import recalled
from .reception import Reception
from .rendezvous import Rendezvous
from .report import answer_order, story_of, totals_by_path
from .sigterm import Sigterm
from .speakers import Speakers
from .state import ControlStatus, State
from .told import all_sent

log = logging.getLogger("control")

TURN_S = 0.1
NOTE_EVERY_S = 2.0
LINE_MOST = 2_000
"""Of what spheres say, in the log."""
READS = 8
"""Batches of frames that are looked through for what may not wait, before what waits has its turn."""
FENCED = 3
"""The exit code of a control that must not act for its run."""


class Server:
    """One run's control. `run` returns the exit code; the caller closes door and ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, door: Door, keys: Keys | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.door = door
        self.clock = AwakeClock()
        self.rendezvous = Rendezvous()
        self.speakers = Speakers()
        self.clients = Clients(door)
        self.reception = Reception(settings.folder, settings.run_id)
        self.guard = Guard(door, keys)
        self.outgoing = Outgoing(door)
        self.state = replace(recalled(ledger, settings, self.clock.now_s()), secret=keys.words if keys else b"")
        self.journal = Journal(settings.folder)
        self.journal.catch_up(ledger.rows_after(max(self.journal.newest, 0)), self._micro_batches)
        if self.state.begun is not None and self.state.generation == self.state.running:
            self.rendezvous.begin(self.state.generation)
        self._fenced = ""
        self._early: dict[bytes, Hello] = {}
        self._ledger_broke = False
        self.sigterm = Sigterm()
        self._noted_s = 0.0
        self._more = False
        self._waited_for = True

    # ---------------------------------------------------------------- the loop

    @property
    def _micro_batches(self) -> int:
        return self.state.proof.micro_batches if self.state.proof else 0

    def run(self) -> int:
        """Until the run has ended and everybody has left. 0: it ended as it should, also by stop; 1: it failed;
        FENCED: another control acts for it, and nobody was told anything."""
        if self.settings.lifeline:
            self.door.watch(0)
        code = None
        while code is None:
            ready = self.door.wait(0.0 if self.clients else TURN_S)
            code = self.turn(self.clock.now_s(), 0 in ready)
            if not self._more:
                time.sleep(rest_s(len(self.state.seats), self._is_waited_for))
        return code

    @property
    def _is_waited_for(self) -> bool:
        """Whether somebody waits for an answer, or is about to give one."""
        return self._waited_for or bool(self.clients) or self.state.generation != self.state.running

    def turn(self, now_s: float, lifeline: bool = False) -> int | None:
        """Hear, decide, write, send; the exit code once it is over. lifeline: the launcher's pipe can be read."""
        try:
            self._hear(now_s)
            self._throw_out(now_s)
            if lifeline and not os.read(0, 4096):  # its spheres die with it; those from elsewhere wait for the next
                return 1 if self.state.wait_for else self._end_at_once("the launcher died [LW514]", now_s)
            if self._fenced:
                log.error("%s", self._fenced)
                return FENCED
            if self.sigterm.is_new and self._obey_term(now_s):
                return self._end_at_once("ended at once by a second SIGTERM [LW514]", now_s)
            self._settle(now_s)
            self._note_totals(now_s)
        except Exception as error:
            self._broke(error, now_s)
        if self.state.status is not ControlStatus.STOPPED:
            return None
        return 0 if self.state.ended and self.state.ended.status != "failed" else 1

    def _settle(self, now_s: float) -> None:
        """Do what is to be done until nothing is left."""
        self._flush()
        while effects := plan(self.state, now_s):
            sent: list[Sent] = []
            for effect in effects:
                match effect:
                    case Decide(event):
                        self._happen(event, now_s)
                    case Send(sphere, message):
                        self.outgoing.put(self.speakers.of(sphere), message)
                        sent.append(Sent(sphere=sphere, message=message, at_s=now_s))
            self.state = all_sent(self.state, sent) if sent else self.state
            self._flush()
            if sent:
                break  # Nothing was decided, and what was said is told: there is no more to do at this moment.
        self.clients.answer(self.state, now_s)

    def _note_totals(self, now_s: float, due_s: float = NOTE_EVERY_S) -> None:
        """What the spheres have done so far, for the record: a control that is killed leaves the last note."""
        begun = self.state.begun is not None
        if begun and not self._ledger_broke and now_s - self._noted_s >= due_s:
            self._noted_s = now_s
            self.ledger.note_totals(totals_by_path(self.state))
            self.ledger.note_progress(self.state.versions.progress)

    def _happen(self, event: Event, now_s: float) -> None:
        """One fact: applied, written, and told at the next flush. Raises LedgerError with the fact applied."""
        before, self.state = self.state, apply(self.state, event)
        if isinstance(event, SphereBeat):  # nearly all: it is neither written nor told
            return
        if isinstance(event, SphereProved) and before.proof is None and before.former:
            for sentence in differences(before.former, event.proof.fingerprint):
                log.warning("%s", sentence)
        story = story_of(before, event, self.state)
        if isinstance(event, GenerationProposed):
            self.rendezvous.begin(event.generation)
        if story is not None:
            if story.kind != "row" or (story.row is not None and story.row.skipped):
                log.info("%s", " ".join(story.text.split("\n"))[:LINE_MOST])
            self.clients.watchers.tell(story, self.state, now_s)
        if isinstance(event, GenerationBegun) and self.state.lineage > before.lineage:
            self.journal.cut_back(event.position.version)  # before the ledger: whoever dies here finds all lines again
        if self._ledger_broke or not isinstance(event, DURABLE) or is_expected(before, event):
            return
        if isinstance(event, SphereReported):
            if before.versions.row(event.row.version) is self.state.versions.row(event.row.version):
                return  # All that it says is in the ledger already.
            if story is not None:
                self.journal.write(event.row, self._micro_batches)
                here("control.metrics_written")
        if isinstance(event, RunEnded):
            self._note_totals(now_s, 0.0)
        self.ledger.record(event)

    def _flush(self) -> None:
        """First the ledger, then whoever hears of it."""
        if not self._ledger_broke:
            self.ledger.commit()
        self.outgoing.send()
        self.clients.watchers.flush()

    # ---------------------------------------------------------------- hearing

    def _hear(self, now_s: float) -> None:
        """First what may not wait, in all that has come by now; then what was asked."""
        self._waited_for = False
        for _ in range(READS):
            batch = self.door.receive()
            self._more = len(batch) >= BATCH
            for heard in batch:
                if isinstance(heard, Arrived):
                    before = self.state
                    try:
                        self._on_frame(heard, now_s)
                    except Exception as error:
                        self._stumbled(before, heard.identity, error, now_s)
                else:
                    self._left(heard.identity, now_s)
            if not self._more or self._fenced:
                break
        for identity, ask, live in self.clients.take():
            before = self.state
            try:
                self._on_ask(identity, ask, live, now_s)
            except Exception as error:
                self._stumbled(before, identity, error, now_s, ask.request)

    def _stumbled(self, before: State, identity: bytes, error: Exception, now_s: float, request: str = "") -> None:
        """What control itself breaks over costs who said it and not the run, if nothing of the run has changed."""
        if isinstance(error, LedgerError | OSError) or self.state is not before:
            raise error
        self.guard.stumbled(identity, error, now_s)
        if request:
            self.outgoing.put(identity, Answer(request=request, ok=False, text=why_broken(error)))
        sphere = self.speakers.seated(identity, self.state)
        if sphere is not None and not self.state.seats[sphere].expelled:
            why = f"{self.state.seats[sphere].name} said what {why_broken(error)}"
            self._happen(SphereExpelled(sphere=sphere, text=why, at_s=now_s), now_s)

    def _on_frame(self, heard: Arrived, now_s: float) -> None:
        message = self.guard.admitted(heard, now_s)
        if message is None:
            return
        self._waited_for |= not isinstance(message, (Beat, Row))
        if isinstance(message, Ask):
            if is_urgent(message):
                self._on_ask(heard.identity, message, heard.live, now_s)
            else:
                self.clients.queue(heard.identity, message, heard.live)
        elif isinstance(message, Hello):
            self._on_hello(heard.identity, message, now_s)
        elif isinstance(message, Brief | CheckUp):
            self.outgoing.put(heard.identity, self.reception.answer(message, self.state, now_s))
        else:
            self._on_sphere(heard, message, now_s)

    def _throw_out(self, now_s: float) -> None:
        """Whose key was revoked, also while no control ran; and the connections that are silent are closed."""
        for sphere in mute(self.state, now_s):
            self.door.cut_if_silent(self.speakers.of(sphere))
        self.guard.look(now_s)
        for event in of_revoked(self.state, self.guard.allowed, now_s):
            self._happen(event, now_s)

    def _left(self, identity: bytes, now_s: float) -> None:
        self._waited_for = True
        self.clients.left(identity)
        self.guard.forget(identity)
        self._early.pop(identity, None)
        sphere = self.speakers.seated(identity, self.state)
        if sphere is not None and self.speakers.of(sphere) == identity:
            self.rendezvous.forget(sphere)
            self._happen(SphereLost(sphere=sphere, at_s=now_s), now_s)

    def _on_hello(self, identity: bytes, hello: Hello, now_s: float) -> None:
        self._admit_hello(identity, hello, now_s)
        while self._early and self.state.begun is not None:
            self._admit_hello(*self._early.popitem(), now_s)

    def _admit_hello(self, identity: bytes, hello: Hello, now_s: float) -> None:
        key = self.guard.key_of(identity)
        former, speaks = self.state.seat_at(hello.path), self.speakers.speaker(hello.path, self.state)
        event = self.speakers.admission(self.state, identity, hello, now_s, key)
        if isinstance(event, Remembered):
            self._happen(event, now_s)
            event = self.speakers.admission(self.state, identity, hello, now_s, key)
        if isinstance(event, Fenced | Remembered):
            self._fenced = event.text if isinstance(event, Fenced) else "what spheres remember has no end [LW901]"
            return
        if isinstance(event, NotYet):
            self._early[identity] = hello
            return
        if isinstance(event, Refusal):
            self.guard.complaints.say("refused", event.text, now_s)
            self.guard.in_vain(identity, now_s)
            self.outgoing.put(identity, refused(self.state, hello, event))
            return
        self.speakers.give(event.sphere, identity)
        self._happen(event, now_s)
        held = self.state.versions.held
        welcome = Welcome(sphere=event.sphere, incarnation=self.state.incarnation, rows_held=held)
        self.outgoing.put(identity, welcome)
        if former is not None and former.sphere != event.sphere and speaks is not None:
            self.outgoing.put(speaks, Expelled(text=f"sphere {hello.path} has a successor, pid {hello.pid}"))

    def _on_sphere(self, heard: Arrived, message: FromSphere, now_s: float) -> None:
        sphere = self.speakers.seated(heard.identity, self.state)
        if sphere is None or isinstance(message, Hello):
            self.guard.in_vain(heard.identity, now_s)
            return
        if isinstance(message, Beat) and message.incarnation > self.state.incarnation:
            self._fenced = superseded(self.state, self.state.seats[sphere].path, message.incarnation)
            return
        if heard.live and not self.state.seats[sphere].connected:
            self._happen(SphereReturned(sphere=sphere, at_s=now_s), now_s)
        if isinstance(message, StoreRequest):
            for who, reply in self.rendezvous.handle(sphere, message):
                self.outgoing.put(self.speakers.of(who), reply)
            return
        event = admit(self.state, sphere, message, now_s)
        if isinstance(event, SphereReported) and (known := self._known(event.row)) is not None:
            event = replace(event, known=known)
        if event is not None:
            self._happen(event, now_s)

    def _known(self, row: Row) -> Row | None:
        """What the ledger holds of a version that is made, or told, again."""
        versions = self.state.versions
        old = row.version <= versions.held and row.version not in versions.claims
        return self.ledger.row(row.version) if old and not self._ledger_broke else None

    def _on_ask(self, identity: bytes, ask: Ask, live: bool, now_s: float) -> None:
        said: Answer | None
        if ask.what in ORDERS:
            said = self.clients.ordered(identity, ask, self._order(ask, now_s))
        else:
            said = self.clients.asked(identity, ask, self.state, now_s)
        if said is not None:
            self.outgoing.put(identity, said)
        if not live:  # it has left already, so nothing will say so again
            self.clients.left(identity)

    def _order(self, ask: Ask, now_s: float) -> Answer:
        event = admit_order(self.state, ask)
        match event:
            case Refusal():
                return Answer(request=ask.request, ok=False, text=event.text)
            case Already():
                return answer_order(self.state, ask, event)
            case _:
                self._happen(event, now_s)
                return answer_order(self.state, ask)

    # ---------------------------------------------------------------- ends

    def _obey_term(self, now_s: float) -> bool:
        """The first SIGTERM is a stop order, once, as soon as orders can be given; True: there was a second."""
        first = self.sigterm.seen == 0
        if first and self.sigterm.came == 1 and self.state.remembers and self.state.adopting_s is not None:
            return False
        self.sigterm.seen = self.sigterm.came
        if first:
            self._order(Ask(request="", what="stop"), now_s)
        return self.sigterm.seen > 1

    def _end_at_once(self, reason: str, now_s: float) -> int:
        if self.state.ended is None:
            self._happen(RunEnded(status="failed", reason=reason, at_s=now_s), now_s)
            self._flush()
        return 1

    def _broke(self, error: Exception, now_s: float) -> None:
        """The record can't be written, or control itself is wrong: end the run from memory, and say so to all.

        Whoever trains would otherwise wait for a control that is gone. A second error while ending is raised.
        """
        own_fault = not isinstance(error, LedgerError | OSError)
        log.error("%s", error, exc_info=error if own_fault else None)
        if self.state.ended is not None and self._ledger_broke:
            raise error
        self._ledger_broke = True
        if self.state.ended is None:
            end = RunEnded(status="failed", reason=why_broken(error), at_s=now_s)
            self._happen(end, now_s)
            try:
                self.ledger.record(end)
                self.ledger.commit()
            except LedgerError:
                log.error("the end is not in the ledger either")
