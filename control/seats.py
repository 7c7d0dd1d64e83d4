"""The seats by sphere, as a value: another one with a few of them changed costs as much as a few blocks, not as all.

With a thousand spheres control makes two thousand of these a second, and a dict that is copied whole would be most of
its work.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Generic, TypeVar

BLOCK = 32

T = TypeVar("T")


class Seats(Mapping[int, T], Generic[T]):
    """Sphere -> seat, in blocks of BLOCK numbers. Never changed once made."""

    __slots__ = ("_blocks",)

    def __init__(self, seats: Mapping[int, T] | None = None) -> None:
        blocks: dict[int, dict[int, T]] = {}
        for sphere, seat in (seats or {}).items():
            blocks.setdefault(sphere // BLOCK, {})[sphere] = seat
        self._blocks = blocks

    def having(self, seats: Mapping[int, T]) -> Seats[T]:
        """The same with these added, or in place of what was there."""
        blocks = dict(self._blocks)
        own: set[int] = set()
        for sphere, seat in seats.items():
            number = sphere // BLOCK
            if number not in own:
                own.add(number)
                blocks[number] = dict(blocks.get(number, ()))
            blocks[number][sphere] = seat
        made: Seats[T] = Seats.__new__(Seats)
        made._blocks = blocks
        return made

    def __getitem__(self, sphere: int) -> T:
        return self._blocks[sphere // BLOCK][sphere]

    def __contains__(self, sphere: object) -> bool:
        return isinstance(sphere, int) and sphere in self._blocks.get(sphere // BLOCK, ())

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._blocks.values())

    def __len__(self) -> int:
        return sum(map(len, self._blocks.values()))

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def items(self) -> ItemsView[int, T]:
        return _Items(self)


class _Values(ValuesView[T]):
    _mapping: Seats[T]

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(block.values() for block in self._mapping._blocks.values())


class _Items(ItemsView[int, T]):
    _mapping: Seats[T]

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return chain.from_iterable(block.items() for block in self._mapping._blocks.values())
