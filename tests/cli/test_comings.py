"""Who comes to a run and who goes, in lines: what differs between two looks, however much happened in between."""

from __future__ import annotations

from typing import Any

import pytest

from control.errors import NoAnswer
from control.status import Health, SphereHealth
from lightwatch.cli import comings
from lightwatch.cli.comings import NAMED_MOST, Comings, news
from tests.cli.commands import wait_until


def at(path: str, sphere: int = 1, *, here: bool = True, **others: Any) -> SphereHealth:
    state = "computing" if here else "lost"
    return SphereHealth(**{"path": path, "state": state, "host": "lab", "here": here, "sphere": sphere, **others})


def look(*spheres: SphereHealth, state: str = "running") -> Health:
    return Health(state=state, alarm="", silence_s=1.0, spheres=list(spheres))


NOBODY_YET = SphereHealth(path="a/0", state="lost", why="it has not come")
WHY = "sphere a/0: its threads is '2', the others' is '1' [LW403]"


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (NOBODY_YET, at("a/0"), "sphere a/0 came, on lab (1 here)"),
        (at("a/0", here=False), at("a/0"), "sphere a/0 is back (1 here)"),
        (at("a/0", here=False), at("a/0", 2), "sphere a/0 came, on lab (1 here)"),
        (at("a/0"), at("a/0", 2), "sphere a/0 came, on lab (1 here)"),
        (at("a/0"), at("a/0", here=False), "sphere a/0 was lost (0 here)"),
        (at("a/0"), at("a/0", here=False, state="left"), "sphere a/0 left, as it was asked to (0 here)"),
        (at("a/0"), at("a/0", here=False, why=WHY), f"out of the run: {WHY} (0 here)"),
        (at("a/0"), at("a/0", 2, here=False, why=WHY), f"out of the run: {WHY} (0 here)"),
        (NOBODY_YET, at("a/0", here=False, why=WHY), f"out of the run: {WHY} (0 here)"),
        (NOBODY_YET, at("a/0", here=False), "sphere a/0 was lost (0 here)"),
    ],
)
def test_each_thing_that_happens_to_a_sphere_is_a_line(before: SphereHealth, now: SphereHealth, line: str) -> None:
    """Also what began and ended between two looks, and only once: from then on nothing differs."""
    assert news(look(before), look(now)) == [line]
    assert news(look(now), look(now)) == []


def test_what_stays_as_it_is_is_no_news() -> None:
    """Who has not come, is away or out; nor what a reason says that was given before."""
    for same in (NOBODY_YET, at("a/0"), at("a/0", here=False), at("a/0", here=False, why=WHY)):
        assert news(look(same), look(same)) == []
    assert news(look(at("a/0", here=False)), look(at("a/0", here=False, why=WHY))) == []


def test_the_first_look_tells_who_is_here_and_nothing_of_the_past() -> None:
    """`up` may have been started anew for a run that goes on."""
    now = look(at("a/0"), at("a/1", 2, here=False, why=WHY), at("a/2", 3, here=False))
    assert news(None, now) == ["sphere a/0 came, on lab (1 here)"]


def test_many_at_once_are_one_line_with_their_number_and_the_first_paths() -> None:
    """And until the run begins, how many are waited for."""
    paths = [f"eu/{number}" for number in range(NAMED_MOST + 6)]
    before = look(at("us/0"), at("us/1", 2), state="initializing")
    here = [at(path, 3 + number) for number, path in enumerate(paths)]
    now = look(*before.spheres, *here, state="initializing")
    named = ", ".join(paths[:NAMED_MOST])
    assert news(before, now, 16) == [f"12 spheres came: {named}, … (14 of 16 here)"]
    gone = [at(path, 3 + number, here=False) for number, path in enumerate(paths)]
    assert news(now, look(*before.spheres, *gone), 16) == [f"12 spheres were lost: {named}, … (2 here)"]
    out = [at(path, 3 + number, here=False, why=f"sphere {path} is odd [LW403]") for number, path in enumerate(paths)]
    said = f"12 spheres are out of the run: {named}, …; the first: sphere eu/0 is odd [LW403] (2 here)"
    assert news(now, look(*before.spheres, *out)) == [said]


def test_a_control_that_does_not_answer_is_asked_again_and_nothing_is_told_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have been started anew meanwhile: what differs from the last answer is news, whoever gave it."""
    answers = [look(at("a/0"), at("a/1", 2)), None, look(at("a/0"), at("a/1", 2)), None, look(at("a/0"), at("a/1", 3))]
    said: list[str] = []
    asked: list[Health | None] = []

    class Control:
        def __init__(self, *about: object, **more: object) -> None: ...
        def __enter__(self) -> Control:
            return self

        def __exit__(self, *about: object) -> None: ...
        def health(self) -> Health:
            asked.append(answers[min(len(asked), len(answers) - 1)])
            if asked[-1] is None:
                raise NoAnswer("control is silent [LW501]")
            return asked[-1]

    monkeypatch.setattr("control.client.ControlClient", Control)
    monkeypatch.setattr(comings, "LOOK_EVERY_S", 0.001)
    asker = Comings("tcp://127.0.0.1:9", None, 2, said.append)
    wait_until(lambda: len(asked) > len(answers), "all answers")
    asker.close()
    assert said == ["2 spheres came: a/0, a/1 (2 here)", "sphere a/1 came, on lab (2 here)"]


def test_that_all_leave_at_the_end_is_no_news() -> None:
    for state in ("stopping", "stopped"):
        assert news(look(at("a/0")), look(at("a/0", here=False), state=state)) == []


def test_a_line_stays_one_line_whatever_a_machine_calls_itself() -> None:
    assert news(None, look(at("a/0", host="lab\nout of the run: all"))) == [
        "sphere a/0 came, on lab\\nout of the run: all (1 here)"
    ]
