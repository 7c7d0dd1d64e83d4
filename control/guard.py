"""Whose frames are heard: by the key that a connection has proved, its role, and how much it says.

Laws
  1. What a frame says of its sender counts for nothing here; the key counts that libzmq has found sound.
  2. Who is allowed is looked up for each frame, not when it connected: whoever is revoked is dumb from the next look
     on, and cut off a moment later, when it has heard that it is thrown out.
  3. A run without keys listens on loopback, where everybody may say anything.
"""

from __future__ import annotations

import logging
import time

from .bucket import Bucket
from .checkup import CheckUp
from .complaints import Complaints
from .door import NO_KEY, SILENT, TOO_OFTEN, WRONG_KEY, Arrived, Door
from .entrance import Brief, Enrol, Enrolled
from .errors import ControlError, WireError, why_broken
from .keys import Keys, Machine
from .protocol import Answer, Ask, FromSphere, Hello, Refused
from .roles import Role, why_not_said
from .tokens import Token, Tokens, why_used_up
from .wire import decode_at_control, encode

log = logging.getLogger("control")

LOOK_S = 0.25
"""How often the folder of keys is looked at."""
CUT_S = 0.3
"""From being thrown out to being cut off: so long the word may take."""
SPOKEN_S, BURST = 200.0, 400.0
"""Frames in a second, and at once, of one key that is no sphere's; of a sphere's, what it asks before it takes part. In
the rest its run must trust it."""
VAIN_S, VAIN_BURST = 50.0, 4_000.0
"""The same of what counts for nothing, of any key. What is over that costs the connection that it came through."""
FLOOD = 100
"""A flood costs as much as so many connections in vain: from its address nobody is let in for a while."""

STRANGERS = {
    WRONG_KEY: "it knows control's public key, showed one of its own that is not allowed, and was sent away [LW542]",
    NO_KEY: "it spoke without a key or not our protocol, and was sent away at the handshake [LW542]",
    SILENT: "a connection said nothing for long, or was one of too many, and was closed [LW544]",
    TOO_OFTEN: "so many connections came in vain that no more are let in for a while [LW544], from",
}


class Guard:
    """Stands between the door and the server. keys: None, or those of the run."""

    def __init__(self, door: Door, keys: Keys | None = None) -> None:
        self.complaints = Complaints()
        self._door = door
        self._keys = keys
        self._signature: object = None
        self._allowed: dict[str, Machine] = {}
        self._tokens: dict[str, Token] = {}
        self._key_of: dict[bytes, str] = {}
        self._buckets: dict[str, Bucket] = {}
        self._looked_s = float("-inf")
        self._cut: dict[bytes, float] = {}
        self._vain: dict[str, Bucket] = {}
        if keys is not None:
            self._read(keys)

    # ---------------------------------------------------------------- who is allowed

    def may_enter(self, public: str) -> bool:
        """At the handshake: a machine's key, or a token that is not over; one that is used up is told so in words."""
        if public not in self._allowed and public not in self._tokens:
            self._look_again(self._looked_s)  # it may have been allowed in this moment
        token = self._tokens.get(public)
        return public in self._allowed or (token is not None and time.time() < token.until_s)

    @property
    def allowed(self) -> frozenset[str] | None:
        """The public keys of the machines that may take part; None in a run without keys."""
        return frozenset(self._allowed) if self._keys is not None else None

    def key_of(self, identity: bytes) -> str:
        """The key over which it speaks; empty in a run without keys."""
        return self._key_of.get(identity, "")

    def look(self, now_s: float) -> bool:
        """Now and then: read what has changed, and cut off who was revoked. Whether the list was read again."""
        for identity in [each for each, at_s in self._cut.items() if now_s >= at_s]:
            del self._cut[identity]
            self._door.cut(identity)
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        for kind, count in self._door.strangers().items():
            whom = f" {self._door.shut_out}" if kind == TOO_OFTEN else ""
            self.complaints.say(kind, STRANGERS[kind] + whom, now_s, count)
        return self._look_again(now_s)

    def _look_again(self, now_s: float) -> bool:
        if self._keys is None:
            return False
        try:
            return self._read(self._keys)
        except (OSError, ControlError) as error:  # what was read before goes on counting
            self.complaints.say("the folder of keys can't be read", f"{error} [LW541]", now_s)
            return False

    def _read(self, keys: Keys) -> bool:
        signature = keys.signature()
        if signature == self._signature:
            return False
        self._allowed, self._tokens = keys.allowed(), Tokens(keys).all()
        self._signature = signature
        for identity, key in self._key_of.items():
            if key not in self._allowed and key not in self._tokens:
                self._cut.setdefault(identity, self._looked_s + CUT_S)
        known = self._allowed.keys() | self._tokens.keys()
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in known}
        self._vain = {key: bucket for key, bucket in self._vain.items() if key in known}
        return True

    # ---------------------------------------------------------------- who is heard

    def admitted(self, heard: Arrived, now_s: float) -> FromSphere | Ask | Brief | CheckUp | None:
        """What this frame says, if its sender may say it. An Enrol is answered here."""
        role = None
        if self._keys is not None:
            if heard.live:
                self._key_of[heard.identity] = heard.key
            role = self._role(heard, now_s)
            if role is None:
                return None
        try:
            message = decode_at_control(heard.frame)
        except WireError as error:
            self.complaints.say("dropped", str(error), now_s)
            self.in_vain(heard.identity, now_s)
            return None
        if self._keys is not None and not heard.live and isinstance(message, Hello):
            return None  # whoever would have the seat has left, and so has its key
        if role is Role.SPHERE and isinstance(message, Brief | CheckUp) and self._is_too_much(heard, now_s):
            return None  # of a sphere's frames these alone are not the run's
        why = why_not_said(role, message)
        if role is Role.ENROLLING and not why and not isinstance(message, Enrol):
            why = why_used_up(self._tokens.get(heard.key), time.time())
        if why:
            self.complaints.say("refused", f"{why}, said {self._name(heard.key)}", now_s)
            self.in_vain(heard.identity, now_s)
            if isinstance(message, Ask):
                self._door.send(heard.identity, encode(Answer(request=message.request, ok=False, text=why)))
            elif isinstance(message, Brief | CheckUp):
                self._door.send(heard.identity, encode(Refused(text=why)))
        elif isinstance(message, Enrol):
            self._enrol(heard, message, now_s)
        else:
            return message
        return None

    def _role(self, heard: Arrived, now_s: float) -> Role | None:
        """None: nothing is heard from it."""
        machine = self._allowed.get(heard.key)
        if machine is None and heard.key not in self._tokens:
            if heard.identity not in self._cut:
                self._cut[heard.identity] = now_s + CUT_S
            return None
        role = machine.role if machine is not None else Role.ENROLLING
        return None if role is not Role.SPHERE and self._is_too_much(heard, now_s) else role

    def _is_too_much(self, heard: Arrived, now_s: float) -> bool:
        if self._buckets.setdefault(heard.key, Bucket(BURST, SPOKEN_S, now_s)).takes(now_s):
            return False
        self.complaints.say("too much", f"more than {SPOKEN_S:g} frames in a second {self._name(heard.key)}", now_s)
        self.in_vain(heard.identity, now_s)
        return True

    def in_vain(self, identity: bytes, now_s: float) -> None:
        """What this one said counts for nothing. Who says too much of that is cut off, and has come in vain."""
        key = self._key_of.get(identity)
        if key is None or self._vain.setdefault(key, Bucket(VAIN_BURST, VAIN_S, now_s)).takes(now_s):
            return
        text = f"more than {VAIN_S:g} frames in a second that count for nothing {self._name(key)}; it was cut off"
        self.complaints.say("in vain", f"{text} [LW544]", now_s)
        self._door.in_vain(identity, FLOOD)
        self._door.cut(identity)

    def stumbled(self, identity: bytes, error: Exception, now_s: float) -> None:
        """Control's own code broke over what this one said: it is cut off, once it has heard why."""
        text = f"over what was said {self._name(self.key_of(identity))}, who was cut off: {why_broken(error)}"
        if self.complaints.say("stumbled", text, now_s):
            log.error("this is where", exc_info=error)
        self.in_vain(identity, now_s)
        self._cut.setdefault(identity, now_s + CUT_S)

    def _name(self, key: str) -> str:
        machine = self._allowed.get(key)
        if machine is None:
            return "by one that is about to enrol" if self._keys is not None else "by somebody on this machine"
        return f"by {machine.name}"

    def _enrol(self, heard: Arrived, enrol: Enrol, now_s: float) -> None:
        assert self._keys is not None
        answer: Enrolled | Refused
        try:
            answer = Tokens(self._keys).redeem(heard.key, enrol, time.time())
        except (OSError, ControlError) as error:
            answer = Refused(text=f"control can't keep a new machine's key: {error} [LW604]")
        self._look_again(now_s)
        said = f"allowed {answer.name!r}" if isinstance(answer, Enrolled) else answer.text
        self.complaints.say("enrolment", said, now_s)
        self._door.send(heard.identity, encode(answer))
        self._cut[heard.identity] = now_s + CUT_S
        if isinstance(answer, Refused):
            self._door.in_vain(heard.identity)

    def forget(self, identity: bytes) -> None:
        """Its connection has closed."""
        self._key_of.pop(identity, None)
        self._cut.pop(identity, None)
