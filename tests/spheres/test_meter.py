"""The byte ledger against theory: what each level of a tree must carry."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from control.protocol import Member
from control.status import Traffic
from spheres.groups import Groups
from spheres.levels import LevelPlan, plan_levels
from spheres.meter import Meter
from spheres.reduce import sum_over_tree
from tests.spheres.spheres_as_threads import TREES, members_of, on_spheres, results

LENGTH = 4099


def lines_below(tree: str) -> Counter[int]:
    """Level -> how many lines its nodes have to their leaders: one for each child but the first. From the paths."""
    children: dict[str, set[str]] = {}
    for member in members_of(tree):
        parts = member.path.split("/")
        for depth in range(len(parts)):
            children.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    lines: Counter[int] = Counter()
    for node, names in children.items():
        lines[node.count("/") + 1 if node else 0] += len(names) - 1
    return +lines


def added(ledgers: list[list[Traffic]]) -> dict[int, tuple[int, int, int]]:
    """Level -> up, down, least, over all spheres."""
    total: dict[int, tuple[int, int, int]] = {}
    for line in (line for lines in ledgers for line in lines):
        up, down, least = total.get(line.level, (0, 0, 0))
        total[line.level] = (up + line.up, down + line.down, least + line.least)
    return total


@pytest.mark.parametrize("tree", TREES)
def test_each_line_of_a_tree_carries_the_payload_once_up_and_once_down(tree: str) -> None:
    """Summed over spheres, whatever gloo calls it; and the least for as large a gradient is exactly that."""

    def work(groups: Groups, index: int) -> list[Traffic]:
        sum_over_tree(groups, torch.zeros(LENGTH, dtype=torch.int32))
        groups.meter.made_version(groups.plans, 4 * LENGTH)
        return groups.meter.lines()

    size = 4 * LENGTH
    expected = {level: (size * n, size * n, 2 * size * n) for level, n in lines_below(tree).items()}
    assert added(results(on_spheres(tree, work))) == expected


def test_a_message_is_booked_by_its_sender_in_its_direction() -> None:
    """Two to the leader, one back."""

    def work(groups: Groups, index: int) -> list[Traffic]:
        (plan,) = groups.plans
        tensor = torch.zeros(5, dtype=torch.int64)
        if index:
            groups.send(plan, 0, tensor)
            groups.receive(plan, tensor)
        else:
            assert {groups.receive(plan, tensor), groups.receive(plan, tensor)} == {1, 2}
            groups.send(plan, 1, tensor)
            groups.send(plan, 2, tensor)
        return groups.meter.lines()

    assert [(line.up, line.down) for (line,) in results(on_spheres("3", work))] == [(0, 80), (40, 0), (40, 0)]


def test_a_ledger_outlives_its_generations() -> None:
    """The same line in another tree goes on; time adds up as well."""
    meter = Meter()
    for spheres in (2, 3):
        members = [Member(sphere=index, path=str(index)) for index in range(spheres)]
        (plan,) = plan_levels(members, 1)
        meter.reduced_everywhere(plan, 600, 0.25)
    (line,) = meter.lines()
    assert (line.up, line.down, line.seconds) == (300 + 400, 300 + 400, 0.5)


@pytest.mark.parametrize(
    ("donor", "level", "node"), [("eu/a/1", 2, "eu/a"), ("eu/b/0", 1, "eu"), ("us/c/0", 0, ""), ("eu-2/a/0", 0, "")]
)
def test_a_fetched_state_is_booked_where_its_way_turns(donor: str, level: int, node: str) -> None:
    """A state from the other side of the ocean is the root's; its bytes are no sums, and the least is without them."""
    meter = Meter("eu/a/0")
    meter.fetched(donor, 600)
    meter.fetched(donor, 100)
    assert meter.lines() == [Traffic(level=level, node=node, states=700)]


def test_links_have_the_names_of_the_nodes_at_their_ends() -> None:
    members = [Member(sphere=i, path=path) for i, path in enumerate(["eu/a/0", "eu/a/1", "eu/b/0", "us/c/0"])]
    plans = plan_levels(members, 0)
    assert [[plan.link(rank) for rank in range(1, len(plan.members))] for plan in plans] == [
        ["eu – us"],
        ["eu/a – eu/b"],
        ["eu/a/0 – eu/a/1"],
    ]
    assert isinstance(plans[0], LevelPlan)
