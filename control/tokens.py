"""Tokens: what lets a machine that nobody knows enrol its own key, so many times, for an hour.

A token is the secret half of a pair that was drawn for it. Who enrols connects with it, and control keeps its public
half alone: so the token is on no disk here and crosses no wire, not even encrypted, and whoever has none does not come
through the handshake. A connection made with it may say Enrol; and while the token lets one more in, it may ask what
that one would hear once it is enrolled: what the run is, and how it would fit.

Laws
  1. A use is on the disk before its machine is allowed, and that before the machine hears so: control may die anywhere,
     and no token counts for more machines than it says.
  2. A machine that asks again, for it missed the answer, has used the token once. One that was revoked since is not let
     in again by that.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
import zmq.utils.z85

from .config import check_connect
from .entrance import Enrol, Enrolled
from .errors import AddressError, KeyFileError
from .keyfile import Pair, is_public, read_secret, write_private
from .keys import NAME, Keys, Machine, now_utc
from .protocol import Refused
from .roles import Role

VALID_S = 3600.0
MACHINES_MOST = 10_000
FORGOTTEN_S = 7 * 24 * 3600.0
"""A token that is over for so long is cleaned away when the next is made."""

_LINE = re.compile(r"(tcp://[^/\s]+)/([A-Za-z0-9_.-]{1,64})/([A-Za-z0-9_-]{43})/([A-Za-z0-9_-]{43})")


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As control keeps it. until_s: seconds of the wall clock. used: public keys that it let in, with their names."""

    public: str
    machines: int
    until_s: float
    used: dict[str, str] = {}


@dataclass(frozen=True)
class JoinLine:
    """What is pasted on a machine: where control is, which run, control's public half, and a token."""

    address: str
    run_id: str
    control: str
    token: Pair

    def __str__(self) -> str:
        return f"{self.address}/{self.run_id}/{_plain(self.control)}/{_plain(self.token.secret)}"

    def __repr__(self) -> str:
        return f"JoinLine({self.address}, {self.run_id})"

    @classmethod
    def read(cls, text: str) -> JoinLine:
        """Raises KeyFileError."""
        found = _LINE.fullmatch(text.strip().strip("'\""))
        if not found:
            raise KeyFileError(
                "this is no join line; `lightwatch keys token DIR` prints one, to be pasted whole [LW545]"
            )
        address, run_id, control, token = found.groups()
        try:
            check_connect(address)
        except AddressError as error:
            raise KeyFileError(f"the join line has no address: {error}") from None
        secret = _z85(token)
        return cls(
            address, run_id, _z85(control), Pair(public=zmq.curve_public(secret.encode()).decode(), secret=secret)
        )


def _plain(key: str) -> str:
    """A key without the signs that a shell would take for its own."""
    return base64.urlsafe_b64encode(zmq.utils.z85.decode(key)).decode().rstrip("=")


def _z85(plain: str) -> str:
    return zmq.utils.z85.encode(base64.urlsafe_b64decode(plain + "=")).decode()


def why_not_enrolled(token: Token | None, enrol: Enrol, now_s: float) -> str:
    """Why this machine is not let in; empty if it is, perhaps once more."""
    if token is None or now_s >= token.until_s:
        return why_used_up(token, now_s)
    if not is_public(enrol.public) or not NAME.fullmatch(enrol.name):
        return f"{enrol.name[:64]!r} can't be enrolled: its name or its public key is none [LW541]"
    return "" if enrol.public in token.used else why_used_up(token, now_s)


def why_used_up(token: Token | None, now_s: float) -> str:
    """Why this token lets no other machine in; empty if it does. Who holds one that does may ask what the run is."""
    if token is None or now_s >= token.until_s:
        return "the join line is not valid any more: it was good for an hour; ask for another one [LW545]"
    if len(token.used) >= token.machines:
        return f"the join line was used already, by {', '.join(token.used.values())[:200]}; ask for another one [LW545]"
    return ""


class Tokens:
    """Those of a run."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.folder = keys.folder / "tokens"

    def new(self, now_s: float, machines: int = 1, valid_s: float = VALID_S) -> Pair:
        """Draw a token: its secret half is for the join line, and is kept nowhere. Raises KeyFileError."""
        if not 1 <= machines <= MACHINES_MOST:
            raise KeyFileError(f"--machines must be 1 to {MACHINES_MOST}, got {machines} [LW002]")
        pair = Pair.draw()
        token = Token(public=pair.public, machines=machines, until_s=now_s + valid_s)
        write_private(self._file(pair.public), msgspec.json.encode(token))
        for old in self.all().values():
            if now_s - old.until_s > FORGOTTEN_S:
                self._file(old.public).unlink(missing_ok=True)
        return pair

    def all(self) -> dict[str, Token]:
        """By public key."""
        found = {}
        for path in sorted(self.folder.glob("[!.]*")):
            token = read_secret(path, Token)
            found[token.public] = token
        return found

    def redeem(self, public: str, enrol: Enrol, now_s: float) -> Enrolled | Refused:
        """Let this machine in, if the token that it connected with allows it."""
        token = self.all().get(public)
        why = why_not_enrolled(token, enrol, now_s)
        if not why and enrol.public in self.keys.revoked():
            why = "this machine's key was revoked; draw a new one [LW542]"
        if why or token is None:
            return Refused(text=why)
        known = self.keys.allowed().get(enrol.public)
        if known is not None:
            return Enrolled(name=known.name, role=known.role.value)
        try:
            name = token.used.get(enrol.public) or self.keys.free_name(enrol.name)
            used = {**token.used, enrol.public: name}
            write_private(
                self._file(public), msgspec.json.encode(msgspec.structs.replace(token, used=used)), replace=True
            )
            self.keys.allow(Machine(name=name, public=enrol.public, role=Role.SPHERE, since=now_utc()))
        except KeyFileError as error:
            return Refused(text=str(error))
        return Enrolled(name=name)

    def _file(self, public: str) -> Path:
        return self.folder / _plain(public)
