"""A machine counts the spheres that it starts."""

from __future__ import annotations

import itertools

from lightwatch.cli.crew import Duty


def test_spheres_of_several_nodes_on_one_machine_have_numbers_of_their_own() -> None:
    """`2x2` is four spheres here, though each node has but a 0 and a 1: with four GPUs each gets its own."""
    paths = ("0/0", "0/1", "1/0", "1/1")
    duty = Duty("tcp://127.0.0.1:9", 1, paths=paths)
    words = {path: dict(itertools.pairwise(duty.arguments(path))) for path in paths}
    assert {path: given["--local-rank"] for path, given in words.items()} == {
        "0/0": "0",
        "0/1": "1",
        "1/0": "2",
        "1/1": "3",
    }
    assert [path for path in paths if "--shown" in duty.arguments(path)] == ["0/0"]
