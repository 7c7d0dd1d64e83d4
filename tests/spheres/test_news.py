"""A supervisor that no launcher listens to speaks to people."""

from __future__ import annotations

import json

import pytest

from spheres.news import spoken, spoken_end


def test_ends_are_told_in_a_few_words() -> None:
    assert [spoken_end(code) for code in (None, 75, 3, -9)] == [
        "ended",
        "asked to be started anew",
        "ended with code 3",
        "ended by SIGKILL",
    ]


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ({"started": "lab/0", "pid": 7}, "sphere lab/0 has started (pid 7)"),
        (
            {"again": "lab/0", "pid": 8, "why": "ended by SIGKILL"},
            "sphere lab/0 is started anew (pid 8): the one before ended by SIGKILL",
        ),
        ({"working": "lab/0", "pid": 8}, "sphere lab/0 is at work (pid 8)"),
        (
            {"exited": "lab/0", "pid": 8, "code": 0, "signal": None, "final": True},
            "sphere lab/0 (pid 8) ended with code 0",
        ),
        (
            {"exited": "lab/0", "pid": 8, "code": None, "signal": 9, "final": False},
            "sphere lab/0 (pid 8) ended by SIGKILL",
        ),
        ({"printed": "lab/0", "text": '{"mine": 1}'}, '{"mine": 1}'),
    ],
)
def test_each_item_for_a_launcher_is_a_line_for_people(item: dict[str, object], line: str) -> None:
    assert spoken(item) == line


@pytest.mark.parametrize("item", [{"leaving": "lab/0", "why": "SIGTERM"}, {"gave_up": "lab/0", "why": "no template"}])
def test_what_its_log_says_is_not_said_twice(item: dict[str, object]) -> None:
    """These go to stderr as well, where both would be read."""
    assert spoken(item) == "", json.dumps(item)
