"""Bytes and messages: strict MessagePack, one frame a message, a size limit before anything is decoded."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from .checkup import CheckedUp
from .entrance import Briefed, Enrolled
from .errors import WireError
from .protocol import Refused, ToClient, ToControl, ToSphere

MAX_FRAME_BYTES = 1 << 20
FROM_CONTROL_BYTES_MOST = 16 << 20
"""To spheres and clients: control has proved who it is, and a View, or `health`, names every sphere."""

_encoder = msgspec.msgpack.Encoder()
_to_control: msgspec.msgpack.Decoder[ToControl] = msgspec.msgpack.Decoder(ToControl)
_to_sphere: msgspec.msgpack.Decoder[ToSphere] = msgspec.msgpack.Decoder(ToSphere)
_to_client: msgspec.msgpack.Decoder[ToClient] = msgspec.msgpack.Decoder(ToClient)
_to_newcomer: msgspec.msgpack.Decoder[Enrolled | Briefed | CheckedUp | Refused] = msgspec.msgpack.Decoder(
    Enrolled | Briefed | CheckedUp | Refused
)

T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """One message as one frame."""
    return _encoder.encode(message)


def as_json(message: object) -> bytes:
    """The same for scripts and people."""
    return msgspec.json.encode(message)


def decode_at_control(frame: bytes) -> ToControl:
    """What a sphere or a client sent. Raises WireError; never runs code from the frame."""
    return _decode(_to_control, frame)


def decode_at_sphere(frame: bytes) -> ToSphere:
    """What control sent to a sphere. Raises WireError."""
    return _decode(_to_sphere, frame, FROM_CONTROL_BYTES_MOST)


def decode_at_client(frame: bytes) -> ToClient:
    """What control sent to a client. Raises WireError."""
    return _decode(_to_client, frame, FROM_CONTROL_BYTES_MOST)


def decode_at_newcomer(frame: bytes) -> Enrolled | Briefed | CheckedUp | Refused:
    """What control answered to Enrol, Brief or CheckUp. Raises WireError."""
    return _decode(_to_newcomer, frame)


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: bytes, most: int = MAX_FRAME_BYTES) -> T:
    if len(frame) > most:
        raise WireError(f"a frame of {len(frame)} bytes; at most {most} are read [LW506]")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"a frame of {len(frame)} bytes is not one of our messages: {error} [LW506]") from None
