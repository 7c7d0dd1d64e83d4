"""Lines of JSON with open descriptors, over a Unix socket between processes of one user on one machine.

On Linux a socket's name may begin with `@`: such names are the kernel's own, lie in no folder, are of any length of
path, and are gone with the process. Such a name has no permissions: whoever is at the other
end must be of our own user.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

LINE_MOST = 1 << 20
DESCRIPTORS_MOST = 8


class Broken(OSError):
    """The other end is gone, or is not one of ours. The caller tries again."""


def new_name() -> str:
    """A name that nobody has."""
    name = f"lightwatch-{secrets.token_hex(8)}"
    return f"@{name}" if sys.platform == "linux" else os.path.join(tempfile.gettempdir(), f"{name}.sock")


def listen(name: str) -> socket.socket:
    """A listening socket; who connects waits in line until somebody accepts."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if not name.startswith("@") and os.path.exists(name):
        os.unlink(name)
    found.bind(_address(name))
    if not name.startswith("@"):
        os.chmod(name, 0o600)
    found.listen(1024)
    return found


def connect(name: str) -> socket.socket:
    """Raises OSError if nobody listens there, Broken if it is another user."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.connect(_address(name))
        check_user(found)
    except OSError:
        found.close()
        raise
    return found


def check_user(line: socket.socket) -> None:
    """Raise Broken if another user is at the other end; where the kernel doesn't say, the file's permissions do."""
    if sys.platform == "linux":
        _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            raise Broken(f"the other end is of user {user}")


def send(line: socket.socket, item: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one line; the descriptors stay open here. Raises OSError."""
    text = json.dumps(item).encode() + b"\n"
    sent = socket.send_fds(line, [text], list(descriptors)) if descriptors else 0
    line.sendall(text[sent:])


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next line and the descriptors that came with it, which are the caller's now. Raises OSError.

    One line at a time: whoever sends waits for the answer, or says nothing more.
    """
    text, descriptors, _, _ = socket.recv_fds(line, LINE_MOST, DESCRIPTORS_MOST)
    try:
        while not text.endswith(b"\n"):
            piece = line.recv(LINE_MOST)
            if not piece or len(text) > LINE_MOST:
                raise Broken("the other end is gone")
            text += piece
        item = json.loads(text)
    except (OSError, ValueError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise error if isinstance(error, OSError) else Broken(str(error)) from None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return item, descriptors


def _address(name: str) -> str:
    return f"\0{name[1:]}" if name.startswith("@") else name
