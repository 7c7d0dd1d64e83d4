"""The key of one machine: a small file that only its owner can read, and how a socket is locked with it.

A key file holds both halves of the machine's pair and control's public half: who has it knows control, and control
knows it. Nothing but the public half ever leaves the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from .errors import KeyFileError

BYTES_MOST = 1 << 16
OTHERS = 0o077

T = TypeVar("T")


class Pair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A CURVE pair in Z85 text, 40 characters each."""

    public: str
    secret: str

    @classmethod
    def draw(cls) -> Pair:
        """A new one, of the system's own randomness."""
        public, secret = zmq.curve_keypair()
        return cls(public=public.decode(), secret=secret.decode())

    def __repr__(self) -> str:
        return f"Pair({self.public})"


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine shows to the control of one run. run_id and address may be empty where they were not known."""

    name: str
    role: str
    control: str
    public: str
    secret: str
    run_id: str = ""
    address: str = ""

    def write(self, path: Path, *, replace: bool = False) -> None:
        """For its owner alone. Raises OSError, FileExistsError unless it may replace one."""
        write_private(path, msgspec.json.encode(self), replace=replace)

    def __repr__(self) -> str:
        return f"KeyFile({self.name}, {self.role}, {self.public})"


def lock(socket: zmq.Socket[bytes], key: KeyFile | None) -> None:
    """Before it connects: this socket speaks to that control alone, encrypted, as that machine. None: in the clear."""
    if key is not None:
        lock_to(socket, key.control, Pair(public=key.public, secret=key.secret))


def lock_to(socket: zmq.Socket[bytes], server: str, pair: Pair) -> None:
    """The same with a server's public half and a pair."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())


def be_server(socket: zmq.Socket[bytes], pair: Pair) -> None:
    """Before it is bound: only who knows the public half gets an answer, and all is encrypted."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())


def read_key(path: Path) -> KeyFile:
    """A machine's key. Raises KeyFileError, also if others could read it."""
    key = read_secret(path, KeyFile)
    if not fits(Pair(public=key.public, secret=key.secret)) or not is_public(key.control):
        raise KeyFileError(f"{path}: its keys are damaged; take another copy, or ask for a new one [LW541]")
    return key


def read_secret(path: Path, kind: type[T]) -> T:
    """What such a file holds. Raises KeyFileError."""
    text = read_private(path)
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: this is no key file: {error} [LW541]") from None


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else can read. Raises KeyFileError."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & OTHERS:
                raise KeyFileError(f"{path}: others can read this key; `chmod 600 {path}`, or draw a new one [LW541]")
            return file.read(BYTES_MOST)
    except OSError as error:
        raise KeyFileError(f"{path}: the key can't be read: {error.strerror or error} [LW541]") from None


def is_public(key: str) -> bool:
    """Whether this reads as half of a pair."""
    try:
        zmq.curve_public(key.encode("ascii"))
    except (ValueError, zmq.ZMQError):
        return False
    return len(key) == 40


def fits(pair: Pair) -> bool:
    """Whether the two halves belong together."""
    try:
        return zmq.curve_public(pair.secret.encode("ascii")) == pair.public.encode("ascii")
    except (ValueError, zmq.ZMQError):
        return False


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A new file of mode 0600, whole or not at all, on the disk when this returns. Raises FileExistsError unless it
    may replace one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
        else:
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- where it lies


def own_folder() -> Path:
    """Where this machine's user keeps the keys of the runs that it was enrolled in."""
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "lightwatch" / "keys"


def own_key(run_id: str, role: str) -> Path:
    """Where the user's key for a run lies, if this machine was enrolled in it."""
    return own_folder() / f"{run_id}.{role}.key"


def found_key(folder: Path | None, role: str, *, run_id: str = "", address: str = "") -> KeyFile | None:
    """The key that this machine has for a run, if it has one: in the run's own folder, else in the user's, by the
    run's id or, where that is not known, by control's address. Raises KeyFileError for one that can't be used."""
    if folder is not None and (local := folder / "keys" / "local" / f"{role}.key").exists():
        return read_key(local)
    if run_id:
        own = own_key(run_id, role)
        return read_key(own) if own.exists() else None
    for path in sorted(own_folder().glob(f"*.{role}.key"), key=os.path.getmtime, reverse=True):
        try:
            key = read_key(path)
        except KeyFileError:
            continue  # of another run, perhaps: whoever means it names it
        if address and key.address == address:
            return key
    return None
