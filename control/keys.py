"""The keys of one run: a folder in the run's folder, with control's own pair and who may connect.

    keys/control.key      control's pair, for its owner alone
    keys/control.pub      its public half, for those who set up a machine by hand
    keys/allowed/NAME     a machine that may connect: its public key, its role, since when
    keys/revoked/NAME     one that may not any more; with a number where a name was revoked twice
    keys/tokens/          what enrols machines (tokens.py)
    keys/local/ROLE.key   this folder's own machine: who can read the folder is control's equal anyway

Laws
  1. A file is written whole and never changed in place: the same names of the same age say that nothing is new.
  2. Revoking moves a file. Nothing is deleted, so a key that was revoked once never comes in again, whoever enrols it.
  3. The folder is the only truth, for a control that runs too: it looks again and again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .errors import KeyFileError
from .keyfile import KeyFile, Pair, fits, is_public, read_secret, sync_folder, write_private
from .roles import GIVEN, Role

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
LOCAL = {Role.SPHERE: "local-spheres", Role.CLIENT: "local-clients"}
SAME_NAME_MOST = 10_000


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One that may connect, or might."""

    name: str
    public: str
    role: Role
    since: str
    """For people; nothing is decided by it."""


class Keys:
    """The keys in a run's folder; `exist` says whether there are any. Reads the disk at every call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.run_folder = folder

    @property
    def exist(self) -> bool:
        return (self.folder / "control.key").exists()

    @classmethod
    def made(cls, folder: Path) -> Keys:
        """Those of this folder, made if there are none. Raises OSError, KeyFileError."""
        keys = cls(folder)
        for each in ("", "allowed", "revoked", "tokens", "local"):
            (keys.folder / each).mkdir(mode=0o700, parents=True, exist_ok=True)
        for role, name in LOCAL.items():
            file = keys.folder / "local" / f"{role.value}.key"
            if not keys.exist and not file.exists():
                keys._draw_local(file, role, name)
        if not keys.exist:  # last: from now on control asks for keys
            os.rename(keys.folder / "control.new", keys.folder / "control.key")
            sync_folder(keys.folder)
        return keys

    def _draw_local(self, file: Path, role: Role, name: str) -> None:
        aside = self.folder / "control.new"
        if not aside.exists():
            write_private(aside, msgspec.json.encode(Pair.draw()))
        control = read_secret(aside, Pair).public
        (self.folder / "control.pub").write_text(f"{control}\n", encoding="ascii")
        (self.folder / "allowed" / name).unlink(missing_ok=True)  # of a beginning that was cut short
        pair = Pair.draw()
        self.allow(Machine(name=name, public=pair.public, role=role, since=now_utc()))
        key = KeyFile(name=name, role=role.value, control=control, public=pair.public, secret=pair.secret)
        key.write(file)

    @property
    def pair(self) -> Pair:
        """Control's own. Raises KeyFileError."""
        path = self.folder / "control.key"
        pair = read_secret(path, Pair)
        if not fits(pair):
            raise KeyFileError(f"{path}: its keys are damaged; take the folder from where it is whole [LW541]")
        return pair

    @property
    def words(self) -> bytes:
        """A secret for the words of generations: it says nothing about the pair that it is made from."""
        return hashlib.blake2b(self.pair.secret.encode(), person=b"lightwatch words", digest_size=32).digest()

    # ---------------------------------------------------------------- who may connect

    def allowed(self) -> dict[str, Machine]:
        """By public key."""
        return {machine.public: machine for machine in self._machines("allowed")}

    def revoked(self) -> dict[str, Machine]:
        """By public key."""
        return {machine.public: machine for machine in self._machines("revoked")}

    def _machines(self, which: str) -> Iterator[Machine]:
        for path in sorted((self.folder / which).glob("[!.]*")):
            try:
                machine = msgspec.json.decode(path.read_bytes(), type=Machine)
            except FileNotFoundError:
                continue  # revoked in this moment
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise KeyFileError(f"{path}: can't be read as a machine's key: {error} [LW541]") from None
            yield machine

    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Equal as long as nothing has changed: names, when written, and which file of that name."""
        found = []
        for which in ("allowed", "revoked", "tokens"):
            with os.scandir(self.folder / which) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        facts = entry.stat()
                        found.append((f"{which}/{entry.name}", facts.st_mtime_ns, facts.st_ino))
        return tuple(sorted(found))

    def allow(self, machine: Machine) -> None:
        """From now on it may connect. Raises KeyFileError: the name is taken or none, the key revoked or none."""
        why = why_not_allowed(machine)
        if not why and machine.public in self.revoked():
            why = f"the key of {machine.name} was revoked once, and stays so; draw a new one [LW541]"
        if why:
            raise KeyFileError(why)
        try:
            write_private(self.folder / "allowed" / machine.name, msgspec.json.encode(machine))
        except FileExistsError:
            raise KeyFileError(f"there is a machine {machine.name!r} already; choose another name [LW541]") from None

    def free_name(self, name: str) -> str:
        """The name, or the first of NAME-2, NAME-3… that nobody has."""
        for number in range(1, SAME_NAME_MOST):
            tried = name if number == 1 else f"{name[:56]}-{number}"
            if not (self.folder / "allowed" / tried).exists():
                return tried
        raise KeyFileError(f"there are {SAME_NAME_MOST} machines called {name!r}; choose another name [LW541]")

    def new(self, name: str, role: Role, *, run_id: str = "", address: str = "") -> KeyFile:
        """A pair for a machine that is told by hand: it is allowed, and its key file returned. Raises KeyFileError."""
        pair = Pair.draw()
        self.allow(Machine(name=name, public=pair.public, role=role, since=now_utc()))
        return KeyFile(
            name=name,
            role=role.value,
            control=self.pair.public,
            public=pair.public,
            secret=pair.secret,
            run_id=run_id,
            address=address,
        )

    def revoke(self, name: str) -> None:
        """Out with this machine, for good. Raises KeyFileError if there is none of this name."""
        there = self.folder / "allowed" / name
        if not NAME.fullmatch(name) or not there.exists():
            known = ", ".join(sorted(path.name for path in (self.folder / "allowed").glob("[!.]*"))) or "nobody"
            raise KeyFileError(f"there is no machine {name[:64]!r}; allowed are {known} [LW541]")
        for number in range(1, SAME_NAME_MOST):
            to = self.folder / "revoked" / (name if number == 1 else f"{name}.{number}")
            try:
                os.link(there, to)
            except FileExistsError:
                continue
            there.unlink()
            sync_folder(there.parent)
            sync_folder(to.parent)
            return


def why_not_allowed(machine: Machine) -> str:
    """What is wrong with it; empty: nothing."""
    if not NAME.fullmatch(machine.name):
        return f"a machine's name has letters, digits, '_', '.', '-', at most 64; got {machine.name[:80]!r} [LW541]"
    if not is_public(machine.public):
        return f"{machine.name}: {machine.public[:48]!r} is no public key [LW541]"
    if machine.role not in GIVEN:
        return f"{machine.name}: no machine has the role {machine.role.value} [LW541]"
    return ""


def now_utc() -> str:
    """This moment for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")
