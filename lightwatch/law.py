"""What a setting may be: a law for each field, and the section that holds its fields to them.

Standard library only. A law is data beside the field's default, so a config file, a flag and a constructor are judged
by the same sentence.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from .errors import ConfigError

INT64_MOST = 2**63 - 1  # TOML's and MessagePack's integers end here


@dataclass(frozen=True)
class Law:
    """What one field accepts; `judge` gives the value in its one stored form, or raises with the sentence."""

    kind: str  # "int", "float", "bool", "text"
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf  # strict
    above: float = -math.inf  # strict
    choices: tuple[str, ...] = ()
    also: int | None = None  # one more value that means "no limit"
    none_is: float | None = None  # what None is stored as; None: not accepted

    def judge(self, name: str, value: object) -> object:
        """Return `value` as it is stored (an int becomes a float where a float is due, a path its text)."""
        if value is None and self.none_is is not None:
            return self.none_is
        stored = self._typed(value)
        if stored is None or not self._in_range(stored):
            raise ConfigError(f"{name} must be {self}, got {shown(value)} [LW002]")
        return stored

    def _typed(self, value: object) -> int | float | str | None:
        """The stored form, or None if the type is wrong. A bool is no number, here or anywhere."""
        if self.kind == "bool":
            return value if isinstance(value, bool) else None
        if isinstance(value, bool):
            return None
        if self.kind == "int":
            return int(value) if isinstance(value, int) else None
        if self.kind == "float":
            if not isinstance(value, int | float) or abs(value) > 1e308 or not math.isfinite(value):
                return None
            return float(value)
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        return str(text) if isinstance(text, str) and _is_plain_text(text) else None

    def _in_range(self, value: float | str) -> bool:
        if isinstance(value, str):
            return not self.choices or value in self.choices
        if value == self.also and self.also is not None:
            return True
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if self.choices:
            return " or ".join(json.dumps(choice) for choice in self.choices)
        if self.kind in ("bool", "text"):
            return "true or false" if self.kind == "bool" else "a text without NUL characters, in UTF-8"
        words = "a whole number" if self.kind == "int" else "a finite number"
        limits = [(">=", self.least), (">", self.above), ("<=", self.most), ("<", self.below)]
        spoken = [f"{sign} {_number(limit)}" for sign, limit in limits if abs(limit) < INT64_MOST]
        words = " ".join([words, " and ".join(spoken)]).rstrip()
        words += f", or {self.also}" if self.also is not None else ""
        return words + (", or none" if self.none_is is not None else "")


def _number(limit: float) -> str:
    return f"{limit:g}" if abs(limit) < 1e5 else str(int(limit))


def shown(value: object) -> str:
    """A value as the sentence shows it: short, on one line, with its type where the text alone could deceive."""
    if value is None:
        return "none"
    if isinstance(value, int) and abs(value) > INT64_MOST:
        return "a number of more than 64 bits"  # Python refuses to print the really large ones
    text = repr(value).encode("ascii", "backslashreplace").decode()
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, int | float) and type(value) is not bool else f"{text} ({type(value).__name__})"


def _is_plain_text(text: str) -> bool:
    try:
        return "\0" not in text and text.encode("utf-8") is not None
    except UnicodeEncodeError:  # a file name that is not UTF-8 could not be written into config.toml
        return False


def whole(default: int, least: int, most: int = INT64_MOST, *, also: int | None = None) -> int:
    """A whole number between two limits; `also` is one more value, outside them."""
    return field(default=default, metadata={"law": Law("int", least=least, most=most, also=also)})


def number(default: float, **limits: float) -> float:
    """A finite number; limits are named as in Law."""
    return field(default=default, metadata={"law": Law("float", **limits)})  # type: ignore[arg-type]


def text(default: str, *choices: str) -> str:
    """A text; with choices, one of them."""
    return field(default=default, metadata={"law": Law("text", choices=choices)})


def boolean(default: bool) -> bool:
    """True or false."""
    return field(default=default, metadata={"law": Law("bool")})


class Section:
    """What the sections share: every field is judged by its law, an unknown name is answered with the nearest."""

    def __new__(cls, *_args: object, **values: object) -> Self:
        # Before the generated __init__, whose TypeError would not know the nearest name.
        refuse_unknown(cls.__name__, values, cls.names())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            law: Law = each.metadata["law"]
            name = f"{type(self).__name__}.{each.name}"
            object.__setattr__(self, each.name, law.judge(name, getattr(self, each.name)))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields, in the order they are written."""
        return tuple(each.name for each in fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Make the section from a mapping; what is missing has its default. Raises ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} needs a table of names and values, got {shown(values)} [LW002]")
        return cls(**{str(name): value for name, value in values.items()})


def refuse_unknown(where: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    """Raise ConfigError for the first name that is not known, with the nearest that is."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)
            raise ConfigError(
                f"{where} has no {shown(name).removesuffix(' (str)')}; the nearest known is {near[0]!r} [LW003]"
            )
