"""The doctors at control: who hears of whom, who may ask, and what it costs: not the token."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from control.checkup import CheckedUp, CheckUp, Doctor
from control.doctors import CARD_BYTES_MOST, DOCTORS_MOST, STALE_S, Doctors
from control.enrol import enrol
from control.entrance import Brief, Briefed
from control.errors import KeyRefused
from control.protocol import Refused
from control.question import asked
from control.tokens import JoinLine, Tokens
from tests.control.keyed import Keyed


def card(name: str, host: str = "here") -> Doctor:
    return Doctor(name=name, host=host, places=[("eth0", "10.0.0.1")], port=5000, key="k")


def names(found: list[Doctor] | Refused) -> list[str]:
    assert isinstance(found, list)
    return [each.name for each in found]


def test_doctors_hear_of_each_other_but_not_of_themselves() -> None:
    """And of the newest that each has said."""
    doctors = Doctors()
    assert names(doctors.heard(card("a"), 0.0)) == []
    assert names(doctors.heard(card("b"), 0.1)) == ["a"]
    assert names(doctors.heard(card("a", host="elsewhere by now"), 0.2)) == ["b"]
    others = doctors.heard(card("b"), 0.3)
    assert isinstance(others, list) and [each.host for each in others] == ["elsewhere by now"]


def test_a_doctor_that_says_nothing_is_forgotten() -> None:
    """It may have been killed: who comes later must not try to meet it."""
    doctors = Doctors()
    doctors.heard(card("a"), 0.0)
    assert names(doctors.heard(card("b"), STALE_S - 0.1)) == ["a"]
    assert names(doctors.heard(card("b"), STALE_S)) == []


def test_cards_are_few_and_small() -> None:
    """Whoever is in is heard on; a frame holds them all."""
    doctors = Doctors()
    for number in range(DOCTORS_MOST):
        assert isinstance(doctors.heard(card(str(number)), 0.0), list)
    assert isinstance(doctors.heard(card("one more"), 0.1), Refused)
    assert isinstance(doctors.heard(card("0"), 0.1), list)
    assert isinstance(doctors.heard(card("one more"), STALE_S), list)
    assert isinstance(doctors.heard(card("0", host="x" * CARD_BYTES_MOST), STALE_S), Refused)


@pytest.mark.cluster
def test_who_may_enrol_may_ask_and_the_token_is_not_used_up_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it enrols by the line, afterwards by its own key. A line that lets nobody in any more tells nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    keyed = Keyed(tmp_path / "run")
    try:
        (keyed.folder / "config.toml").write_text("max_steps = 7\n")
        token = Tokens(keyed.keys).new(time.time())
        line = JoinLine(keyed.address, "run", keyed.keys.pair.public, token)

        def ask(word: Brief | CheckUp) -> object:
            return asked(line.address, word, (line.control, token), 10.0, lambda seen: "turned away [LW545]")

        told = ask(Brief())
        assert isinstance(told, Briefed) and told.config == "max_steps = 7\n"
        first, second = ask(CheckUp(card=card("a"))), ask(CheckUp(card=card("b")))
        assert isinstance(first, CheckedUp) and isinstance(second, CheckedUp)
        assert abs(first.clock_s - time.time()) < 60 and first.versions["lightwatch"]
        assert [each.name for each in second.doctors] == ["a"]
        assert not Tokens(keyed.keys).all()[token.public].used
        enrol(str(line), "lab")
        for word in (Brief(), CheckUp(card=card("a"))):
            with pytest.raises(KeyRefused, match=r"used already, by lab.*\[LW545\]"):
                ask(word)
    finally:
        keyed.close()
