"""The tree of spheres: from the user's text, or from the paths of those who are here.

Laws
  1. One function, `parse_tree`, judges a tree's text; whatever it does not know is refused.
  2. A sphere is a leaf, an inner node is none, no path is there twice, no node has more than MAX_FAN_OUT children.
  3. Tree order is depth first, children in the order in which they were first named: neighbours in the tree are
     neighbours in the list.

A text is refused before its spheres are counted out, so `12x12x12x12x12x12` costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .errors import TreeError

MAX_FAN_OUT = 12
MAX_SPHERES = 20_736
MAX_DEPTH = 16
MAX_TEXT = 65_536

ALONE = "1"

_COUNT = re.compile(r"[1-9][0-9]*")
_GRID = re.compile(r"[0-9]+(x[0-9]+)*")
_ANYWHERE = re.compile(r"\*:([1-9][0-9]{0,4})")
WAIT_FOR_MOST = 99_999
NAME_MOST = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FORMS = "write N, AxB like 2x2, or path:N,… like eu/a:2,us/b:1"


def is_alone(text: str) -> bool:
    """Whether this tree means one process without control: exactly `1`."""
    return text == ALONE


def wait_for(text: str) -> int:
    """How many spheres a run begins with whose tree is what those say who come, `*:N`; 0: its tree names its paths."""
    found = _ANYWHERE.fullmatch(text)
    return int(found[1]) if found else 0


def parse_tree(text: str) -> tuple[str, ...]:
    """The paths of all spheres in tree order; none where they are what those say who come. Raises TreeError with one
    sentence.

    >>> parse_tree("2x2")
    ('0/0', '0/1', '1/0', '1/1')
    >>> parse_tree("a:2,b:1")
    ('a/0', 'a/1', 'b/0')
    """
    shown = text if len(text) <= 40 else text[:37] + "..."
    if len(text) > MAX_TEXT:
        raise TreeError(f"tree: a text of {len(text)} characters; at most {MAX_TEXT} are read [LW401]")
    if 0 < wait_for(text) <= MAX_SPHERES:
        return ()
    if _GRID.fullmatch(text):
        return _grid([_count(part, shown) for part in text.split("x")], shown)
    if ":" not in text:
        raise TreeError(f"tree: {shown!r} is not a tree; {_FORMS} [LW401]")
    return _places(text.split(","), shown)


def _count(text: str, shown: str) -> int:
    if not _COUNT.fullmatch(text):
        raise TreeError(f"tree: {text[:20]!r} in {shown!r} is not a count of at least 1; {_FORMS} [LW401]")
    if len(text) > 4 or int(text) > MAX_FAN_OUT:
        raise TreeError(
            f"tree: {text[:20]} in {shown!r} is too wide; a node has at most {MAX_FAN_OUT} children [LW401]"
        )
    return int(text)


def _grid(counts: list[int], shown: str) -> tuple[str, ...]:
    if len(counts) > MAX_DEPTH:
        raise TreeError(f"tree: {shown!r} has {len(counts)} levels; at most {MAX_DEPTH} are possible [LW401]")
    paths = [""]
    for count in counts:
        if len(paths) * count > MAX_SPHERES:
            raise TreeError(f"tree: {shown!r} has more than {MAX_SPHERES} spheres [LW401]")
        paths = [f"{path}/{child}" for path in paths for child in range(count)]
    return tuple(path[1:] for path in paths)


def _places(parts: list[str], shown: str) -> tuple[str, ...]:
    if len(parts) > MAX_SPHERES:
        raise TreeError(f"tree: {shown!r} has more than {MAX_SPHERES} spheres [LW401]")
    seen: set[str] = set()
    paths: list[str] = []
    for part in parts:
        path, colon, count = part.partition(":")
        if not colon:
            raise TreeError(f"tree: {part[:40]!r} in {shown!r} names no count; {_FORMS} [LW401]")
        check_path(path)
        if path in seen:
            raise TreeError(f"tree: the path {path!r} is there twice in {shown!r} [LW402]")
        seen.add(path)
        paths.extend(f"{path}/{child}" for child in range(_count(count, shown)))
    return SphereTree.of(paths).paths


def check_path(path: str) -> None:
    """Raise TreeError unless each name of the path is letters, digits, `_`, `.`, `-`, and not dots alone."""
    names = path.split("/")
    if len(names) >= MAX_DEPTH:
        raise TreeError(
            f"tree: the path {path[:40]!r} has {len(names)} levels; at most {MAX_DEPTH - 1} are possible [LW401]"
        )
    for name in names:
        if len(name) > NAME_MOST:
            raise TreeError(f"a name in a path has at most {NAME_MOST} letters, {name[:20]}… has {len(name)} [LW402]")
        if not _NAME.fullmatch(name) or not name.strip("."):
            raise TreeError(
                f"tree: {name[:20]!r} in the path {path[:40]!r} is not a name; "
                "names are letters, digits, '_', '.', '-' [LW402]"
            )


@dataclass
class Node:
    """A place in the tree: a sphere if it has no children."""

    path: str
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_sphere(self) -> bool:
        return not self.children

    def spheres(self) -> Iterator[str]:
        """The paths of the spheres under this node (itself, if it is one), in tree order."""
        if self.is_sphere:
            yield self.path
        for child in self.children.values():
            yield from child.spheres()


class SphereTree:
    """The tree that a set of paths says. Build it with `SphereTree.of(paths)`; it never changes."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.paths: tuple[str, ...] = tuple(root.spheres()) if root.children else ()

    @classmethod
    def of(cls, paths: Iterable[str]) -> SphereTree:
        """Raises TreeError: a path twice, a sphere that is also an inner node, a node with too many children."""
        root = Node("")
        leaves: set[str] = set()
        for path in paths:
            if path in leaves:
                raise TreeError(f"tree: the sphere {path!r} is there twice [LW402]")
            _grow(root, path, leaves)
            leaves.add(path)
        return cls(root)

    @property
    def count(self) -> int:
        """How many spheres there are."""
        return len(self.paths)

    @property
    def depth(self) -> int:
        """Levels of links between the root and the deepest sphere; 0 for an empty tree."""
        return max((path.count("/") + 1 for path in self.paths), default=0)

    @property
    def fan_out(self) -> int:
        """The most children that one node has."""
        return max((len(node.children) for node in self.nodes()), default=0)

    def nodes(self) -> Iterator[Node]:
        """All nodes, the root first, depth first."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children.values()))

    def find(self, path: str) -> Node:
        """The node at `path` ("" is the root); raises TreeError if there is none."""
        node = self.root
        for name in path.split("/") if path else []:
            if name not in node.children:
                raise TreeError(
                    f"tree: there is no {path!r}; {node.path or 'the root'!r} has {list(node.children)} [LW402]"
                )
            node = node.children[name]
        return node

    def children(self, path: str) -> tuple[str, ...]:
        """The paths of the children of the node at `path`."""
        return tuple(child.path for child in self.find(path).children.values())

    def leader(self, path: str) -> str:
        """The first sphere under `path`: it speaks for the node at the level above."""
        return next(iter(self.find(path).spheres()))

    def leaders(self, path: str) -> tuple[str, ...]:
        """The leader of each child of `path`: the members of the group that reduces at this node."""
        return tuple(self.leader(child) for child in self.children(path))

    def render(self, notes: dict[str, str] | None = None) -> str:
        """The tree as lines of text; `notes` adds a word behind a sphere's name."""
        lines = ["."]
        _draw(self.root, "", notes or {}, lines)
        return "\n".join(lines)


def _grow(root: Node, path: str, leaves: set[str]) -> None:
    """Add one sphere's path below the root, or raise TreeError."""
    check_path_of_sphere(path)
    node = root
    names = path.split("/")
    for depth, name in enumerate(names):
        if node is not root and node.path in leaves:
            raise TreeError(f"tree: {node.path!r} is a sphere, so there can be no sphere {path!r} under it [LW402]")
        if name not in node.children:
            if len(node.children) >= MAX_FAN_OUT:
                where = repr(node.path) if node.path else "the root"
                raise TreeError(f"tree: {where} has more than {MAX_FAN_OUT} children [LW401]")
            node.children[name] = Node("/".join(names[: depth + 1]))
        node = node.children[name]
    if node.children:
        raise TreeError(f"tree: {path!r} can't be a sphere: there are spheres under it [LW402]")


def check_path_of_sphere(path: str) -> None:
    """Like `check_path`, one level deeper."""
    place, slash, name = path.rpartition("/")
    if slash:
        check_path(place)
    check_path(name)


def _draw(node: Node, indent: str, notes: dict[str, str], lines: list[str]) -> None:
    children = list(node.children.values())
    for number, child in enumerate(children):
        last = number == len(children) - 1
        note = notes.get(child.path, "")
        lines.append(f"{indent}{'└── ' if last else '├── '}{child.name}{'  ' + note if note else ''}")
        _draw(child, indent + ("    " if last else "│   "), notes, lines)
