"""Tokens by themselves: how often, how long, for whom; and the line that carries one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from control.entrance import Enrol, Enrolled
from control.errors import KeyFileError
from control.keyfile import Pair
from control.keys import Keys
from control.protocol import Refused
from control.roles import Role
from control.tokens import FORGOTTEN_S, VALID_S, JoinLine, Token, Tokens, why_not_enrolled


def enrol(name: str = "lab") -> Enrol:
    return Enrol(public=Pair.draw().public, name=name)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(Keys.made(tmp_path))


def test_a_token_lets_in_so_many_machines_once_each(tokens: Tokens) -> None:
    """Who asks again has used it once; the next one is refused, by the names of those that were."""
    public = tokens.new(100.0, machines=2).public
    first, second = enrol("a"), enrol("b")
    for _ in range(3):
        assert tokens.redeem(public, first, 101.0) == Enrolled(name="a")
    assert tokens.redeem(public, second, 101.0) == Enrolled(name="b")
    late = tokens.redeem(public, enrol("c"), 101.0)
    assert isinstance(late, Refused) and "used already, by a, b" in late.text
    assert tokens.keys.allowed()[first.public].role is Role.SPHERE
    assert [each.name for each in tokens.keys.allowed().values()] == ["a", "b", "local-clients", "local-spheres"]


def test_a_token_is_over_after_an_hour(tokens: Tokens) -> None:
    """To the second, also for one that has used it."""
    public = tokens.new(100.0).public
    word = enrol()
    assert isinstance(tokens.redeem(public, word, 100.0 + VALID_S - 1), Enrolled)
    late = tokens.redeem(public, word, 100.0 + VALID_S)
    assert isinstance(late, Refused) and "not valid any more" in late.text


def test_a_use_counts_also_if_control_died_before_the_machine_was_allowed(tokens: Tokens) -> None:
    """The same machine is let in when it asks again, by the same name; no other one is."""
    public = tokens.new(100.0).public
    word = enrol()
    assert tokens.redeem(public, word, 101.0) == Enrolled(name="lab")
    (tokens.keys.folder / "allowed" / "lab").unlink()
    again = Tokens(Keys(tokens.keys.run_folder))
    assert isinstance(again.redeem(public, enrol(), 101.0), Refused)
    assert again.redeem(public, word, 101.0) == Enrolled(name="lab")
    assert word.public in again.keys.allowed()


def test_a_machine_that_was_revoked_is_not_let_in_by_asking_again(tokens: Tokens) -> None:
    """Nor by another token."""
    word = enrol()
    one, other = tokens.new(100.0, machines=9).public, tokens.new(100.0).public
    assert tokens.redeem(one, word, 101.0) == Enrolled(name="lab")
    tokens.keys.revoke("lab")
    for public in (one, other):
        answer = tokens.redeem(public, word, 101.0)
        assert isinstance(answer, Refused) and "revoked" in answer.text
    assert word.public not in tokens.keys.allowed()


def test_machines_of_one_name_get_a_number(tokens: Tokens) -> None:
    """A line that is pasted on ten containers that all are called the same."""
    public = tokens.new(100.0, machines=3).public
    assert [tokens.redeem(public, enrol("box"), 101.0) for _ in range(3)] == [
        Enrolled(name=name) for name in ("box", "box-2", "box-3")
    ]


@pytest.mark.parametrize("word", [Enrol(public="x", name="lab"), Enrol(public=Pair.draw().public, name="../../etc")])
def test_what_can_not_be_a_machine_costs_the_token_nothing(tokens: Tokens, word: Enrol) -> None:
    """It is refused, and the next one is let in."""
    public = tokens.new(100.0).public
    assert isinstance(tokens.redeem(public, word, 101.0), Refused)
    assert isinstance(tokens.redeem(public, enrol(), 101.0), Enrolled)


def test_the_token_itself_is_kept_nowhere(tokens: Tokens) -> None:
    """Only its public half, from which nobody gets back."""
    token = tokens.new(100.0)
    files = [path for path in tokens.keys.folder.rglob("*") if path.is_file()]
    assert any(token.public.encode() in path.read_bytes() for path in files)
    assert not any(token.secret.encode() in path.read_bytes() for path in files)


def test_old_tokens_are_cleaned_away(tokens: Tokens) -> None:
    """Long after they are over, when another is made."""
    old = tokens.new(100.0).public
    tokens.new(100.0 + VALID_S + FORGOTTEN_S)
    assert old in tokens.all()
    tokens.new(101.0 + VALID_S + FORGOTTEN_S)
    assert old not in tokens.all()


@pytest.mark.parametrize("machines", [0, -1, 10_001])
def test_a_token_is_for_some_machines(tokens: Tokens, machines: int) -> None:
    with pytest.raises(KeyFileError, match="--machines"):
        tokens.new(100.0, machines)


def test_nobody_is_enrolled_by_a_token_that_there_is_not() -> None:
    """One that was cleaned away."""
    assert "not valid any more" in why_not_enrolled(None, enrol(), 0.0)
    assert why_not_enrolled(Token(public="p", machines=1, until_s=9.0), enrol(), 8.0) == ""


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:5555", "tcp://[fe80::1]:20000", "tcp://lab-3.example.org:1"])
def test_a_join_line_is_one_word_that_reads_back(address: str) -> None:
    """No shell takes a sign of it for its own; pasted with its quotes or with blanks it is the same."""
    for _ in range(20):
        line = JoinLine(address, "run-1.a", Pair.draw().public, Pair.draw())
        text = str(line)
        assert not set(text) & set(" '\"$!`\\&|;<>()*?#~{}=%")
        assert JoinLine.read(text) == JoinLine.read(f"  '{text}'\n") == line
        assert line.token.secret not in repr(line)


@pytest.mark.parametrize("change", ["cut", "other", "port", "empty"])
def test_what_is_no_join_line_is_refused(change: str) -> None:
    """Without an excerpt of it: it may hold a secret."""
    text = str(JoinLine("tcp://h:5", "run", Pair.draw().public, Pair.draw()))
    bad = {"cut": text[:-1], "other": f"http{text[3:]}", "port": text.replace(":5/", ":99999/"), "empty": ""}[change]
    with pytest.raises(KeyFileError) as caught:
        JoinLine.read(bad)
    assert text[-20:] not in str(caught.value)


def test_what_lies_in_the_folder_of_tokens_is_a_token(tokens: Tokens) -> None:
    """Or an error, by its path."""
    path = tokens.folder / "odd"
    path.write_bytes(msgspec.json.encode({"public": 1}))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="odd"):
        tokens.all()
