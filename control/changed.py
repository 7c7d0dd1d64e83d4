"""A frozen value made from another: what `dataclasses.replace` does, some ten times as fast.

Control makes several of them for each message, and a state has dozens of fields. Only for dataclasses that keep their
fields as they were given: without __post_init__, slots or fields that aren't given to __init__.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def changed(value: T, **fields: object) -> T:
    """The same value with these fields changed. Raises TypeError for a field that it has not."""
    kept = vars(value)
    if not fields.keys() <= kept.keys():
        unknown = ", ".join(sorted(fields.keys() - kept.keys()))
        raise TypeError(f"{type(value).__name__} has no field {unknown}")
    made = object.__new__(type(value))
    vars(made).update(kept)
    vars(made).update(fields)
    return made
