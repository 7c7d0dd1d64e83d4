"""One function judges a tree's text; the tree itself keeps its laws whoever joins and leaves."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.errors import TreeError
from control.tree import MAX_FAN_OUT, SphereTree, is_alone, parse_tree, wait_for


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("1", ["0"]),
        ("4", ["0", "1", "2", "3"]),
        ("2x2", ["0/0", "0/1", "1/0", "1/1"]),
        ("2x1x2", ["0/0/0", "0/0/1", "1/0/0", "1/0/1"]),
        ("a:2,b:1", ["a/0", "a/1", "b/0"]),
        ("eu/a:2,us/b:1", ["eu/a/0", "eu/a/1", "us/b/0"]),
        ("a/x:1,b/z:1,a/y:1", ["a/x/0", "a/y/0", "b/z/0"]),
        ("lab-3.eu_1:1", ["lab-3.eu_1/0"]),
        ("2x2:1", ["2x2/0"]),
    ],
)
def test_a_tree_that_can_be_gives_its_paths_in_tree_order(text: str, paths: list[str]) -> None:
    """N, AxB…, path:N,…; depth first, children in the order in which they were first named."""
    assert list(parse_tree(text)) == paths


REFUSED = """0
-1
+2
01
0x2
2x0
2x
x2
2xx
2x-1
2X2
2 x2
1.5
٣
²
13
13x2
2x13
12x12x12x12x12
a
a:
:2
a:0
a:-1
a:13
a:99999999999999999999
a:2 ,b:1
a: 2
a:1,
,a:1
a:1,a:1
a:2,a/0:1
a/0:1,a:1
a//b:1
/a:1
a/:1
.:1
..:1
a/../b:1
a b:1
ä:1
a:1:2
2,2
2x2,a:1"""


@pytest.mark.parametrize(
    "text",
    [
        *REFUSED.splitlines(),
        *("", " 2", "2 ", "2\n", "2\r", "a:1\n", "a\0:1", "9" * 60, "9" * 100_000, "12x" * 40 + "12"),
        *(",".join(f"n{number}:1" for number in range(13)), "/".join("a" * 40) + ":1"),
    ],
    ids=lambda text: ascii(text)[:16],
)
def test_every_other_text_is_refused_fast_with_one_line(text: str) -> None:
    """A TreeError of one line, before anything is counted out."""
    began = time.perf_counter()
    with pytest.raises(TreeError) as caught:
        parse_tree(text)
    assert time.perf_counter() - began < 0.5
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tree: ")
    assert len(str(caught.value)) < 300


@given(st.text(max_size=30))
def test_any_text_gives_a_tree_or_a_tree_error(text: str) -> None:
    """Nothing else can happen, and what is accepted keeps the laws."""
    try:
        paths = parse_tree(text)
    except TreeError:
        return
    assert paths == SphereTree.of(paths).paths
    assert len(set(paths)) == len(paths) > 0


def test_only_the_one_text_means_alone() -> None:
    """Exactly `1`; a tree of one sphere by another name has a control."""
    assert is_alone("1")
    assert not any(is_alone(text) for text in ("", "01", " 1", "1x1", "a:1", "2"))


NAMES = st.sampled_from(["a", "b", "c", "0", "1"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=20)


def is_legal(paths: list[str]) -> bool:
    """The law, said independently: distinct, and no path lies under another. (Five names can't exceed the fan-out.)"""
    return len(set(paths)) == len(paths) and not any(other.startswith(path + "/") for path in paths for other in paths)


@given(PATHS)
def test_a_tree_exists_exactly_for_the_paths_that_keep_the_law(paths: list[str]) -> None:
    """And then its counts are those of the paths themselves."""
    if not is_legal(paths):
        with pytest.raises(TreeError):
            SphereTree.of(paths)
        return
    tree = SphereTree.of(paths)
    assert sorted(tree.paths) == sorted(paths)
    assert tree.count == len(paths)
    assert tree.depth == max((len(path.split("/")) for path in paths), default=0)
    parents = [path.rsplit("/", cut)[0] for path in paths for cut in range(1, path.count("/") + 1)]
    nodes = {*paths, *parents}
    assert {node.path for node in tree.nodes()} == {"", *nodes}
    below = {parent: {node for node in nodes if node.rpartition("/")[0] == parent} for parent in {"", *parents}}
    assert tree.fan_out == max((len(children) for children in below.values()), default=0)
    for parent, children in below.items():
        assert set(tree.children(parent)) == children


@settings(max_examples=50)
@given(PATHS, st.randoms(use_true_random=False))
def test_spheres_that_join_and_leave_in_any_order_give_the_same_tree(paths: list[str], random: object) -> None:
    """The tree is what the paths say: after any joins and leaves it is the tree of who is left."""
    legal: list[str] = []
    for path in paths:
        if is_legal([*legal, path]):
            legal.append(path)
        else:
            with pytest.raises(TreeError):
                SphereTree.of([*legal, path])
    while legal:
        tree = SphereTree.of(legal)
        for node in tree.nodes():
            spheres = list(node.spheres()) if node.path or legal else []
            assert spheres == [
                path for path in tree.paths if f"{path}/".startswith(f"{node.path}/" if node.path else "")
            ]
        for parent in {path.rpartition("/")[0] for path in legal}:
            assert all(leader in legal for leader in tree.leaders(parent))
        legal.pop(random.randrange(len(legal)))  # type: ignore[attr-defined]


def test_leaders_are_the_first_spheres_of_each_child() -> None:
    """The members of the group that reduces at a node."""
    tree = SphereTree.of(parse_tree("a/x:2,a/y:1,b/z:2"))
    assert tree.leaders("") == ("a/x/0", "b/z/0")
    assert tree.leaders("a") == ("a/x/0", "a/y/0")
    assert tree.leaders("a/x") == ("a/x/0", "a/x/1")
    assert tree.leader("b") == "b/z/0"


def test_one_child_too_many_is_refused_where_it_joins() -> None:
    """Twelve children are legal, the thirteenth is named."""
    paths = [f"a/{number}" for number in range(MAX_FAN_OUT)]
    assert SphereTree.of(paths).fan_out == MAX_FAN_OUT
    with pytest.raises(TreeError, match="'a' has more than 12 children"):
        SphereTree.of([*paths, "a/12"])


def test_find_names_what_is_there_instead() -> None:
    """A node by its path, or an error that lists the neighbours."""
    tree = SphereTree.of(["a/0", "b/0"])
    assert tree.find("a/0").is_sphere
    assert not tree.find("a").is_sphere
    with pytest.raises(TreeError, match=r"no 'c'.*\['a', 'b'\]"):
        tree.find("c")


def test_a_tree_is_drawn_with_notes() -> None:
    """As people draw it."""
    assert SphereTree.of(["a/0", "a/1", "b"]).render({"a/1": "computing"}).splitlines() == [
        ".",
        "├── a",
        "│   ├── 0",
        "│   └── 1  computing",
        "└── b",
    ]


@pytest.mark.parametrize(
    ("text", "count"), [("*:1", 1), ("*:4", 4), ("*:20736", 20736), ("4", 0), ("a:2", 0), ("*", 0)]
)
def test_a_tree_that_grows_as_spheres_come_says_how_many_it_begins_with(text: str, count: int) -> None:
    """It names no path; any other tree names all of them, and waits for each."""
    assert wait_for(text) == count
    if count:
        assert parse_tree(text) == ()


@pytest.mark.parametrize("text", ["*:0", "*:20737", "*:99999", "*:-1", "*:01", "*:", "*:2,a:1", "a:1,*:2", "*:2x2"])
def test_a_count_that_can_not_be_waited_for_is_refused(text: str) -> None:
    with pytest.raises(TreeError, match=r"\[LW40[12]\]"):
        parse_tree(text)
