"""Spheres with keys: at control's door, and at each other's larders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from control.keyfile import KeyFile, Pair, found_key, lock_to
from control.keys import Keys
from control.process import ControlProcess
from control.protocol import Hello, Member, Position
from control.roles import Role
from spheres import line as line_module
from spheres.fetch import Fetch, FetchBroken, unreachable
from spheres.larder import Gone, Key, Larder, Want
from spheres.link import AdmissionRefused, Link
from spheres.stock import Whole
from tests.spheres.test_larder import same, state_of

KEY: Key = ((1, 3), Position(version=5))
SILENCE_S = 1.0


# ---------------------------------------------------------------- the line to control


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.made(tmp_path)


@pytest.fixture
def control(keys: Keys) -> Iterator[ControlProcess]:
    with ControlProcess(keys.run_folder, run_id="run", tree="2", silence_s=SILENCE_S) as process:
        yield process


def linked(control: ControlProcess, key: KeyFile | None) -> Link:
    hello = Hello(run_id="run", path="0", pid=1, host="here", nonce="n")
    return Link(control.address, hello, SILENCE_S, key=key)


@pytest.mark.cluster
def test_a_sphere_with_its_machines_key_is_admitted(keys: Keys, control: ControlProcess) -> None:
    link = linked(control, found_key(keys.run_folder, "sphere"))
    try:
        assert link.open(5.0) == 1
    finally:
        link.close()


@pytest.mark.cluster
def test_a_sphere_whose_key_is_revoked_hears_so_and_waits_for_nothing(keys: Keys, control: ControlProcess) -> None:
    """libzmq would try no more, and it would wait for a control that starts anew."""
    key = keys.new("lab", Role.SPHERE)
    keys.revoke("lab")
    link = linked(control, key)
    try:
        with pytest.raises(AdmissionRefused, match=r"this machine's key is not allowed there.*\[LW542\]"):
            link.open(20.0)
    finally:
        link.close()


@pytest.mark.cluster
def test_a_sphere_without_a_key_is_told_that_one_is_wanted(
    control: ControlProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many tries that it is no chance."""
    monkeypatch.setattr(line_module, "TRIES", 3)
    link = linked(control, None)
    try:
        with pytest.raises(AdmissionRefused, match="it wants a key"):
            link.open(20.0)
    finally:
        link.close()


# ---------------------------------------------------------------- larders


@pytest.fixture
def larders() -> Iterator[list[Larder]]:
    """Two with keys, whose spheres are members of one generation."""
    made = [Larder(pair=Pair.draw()) for _ in range(2)]
    for larder in made:
        larder.word = "the word"
    yield made
    for larder in made:
        larder.close()


def member(larder: Larder, key: str | None = None) -> Member:
    return Member(sphere=4, path="a/4", port=larder.port, key=larder.key if key is None else key)


def fetched(donor: Member, into: Larder) -> Whole | object:
    return Fetch(donor, KEY, None, SILENCE_S, lambda: False).run(into)


def test_members_of_a_generation_fetch_from_each_other(larders: list[Larder]) -> None:
    """Encrypted, and bit for bit."""
    donor, taker = larders
    donor.offer(KEY, Whole(state_of(5)))
    partial = Fetch(member(donor), KEY, None, SILENCE_S, lambda: False).run(taker)
    assert same(partial.snapshot(), state_of(5))
    assert unreachable([member(donor)], 2.0) == []


@pytest.mark.parametrize("word", ["", "that of another generation"])
def test_who_does_not_know_the_word_gets_nothing(larders: list[Larder], word: str) -> None:
    """A machine that was revoked still knows the larder's key, and where it is."""
    donor, taker = larders
    donor.offer(KEY, Whole(state_of(5)))
    taker.word = word
    with pytest.raises(FetchBroken, match="no longer has"):
        fetched(member(donor), taker)
    assert donor.handed_bytes == 0


def test_a_larder_that_has_heard_no_word_gives_nothing(larders: list[Larder]) -> None:
    """Also not to who says none."""
    donor, taker = larders
    donor.word = taker.word = ""
    donor.offer(KEY, Whole(state_of(5)))
    with pytest.raises(FetchBroken):
        fetched(member(donor), taker)


def test_who_does_not_know_the_larders_key_gets_no_answer(larders: list[Larder]) -> None:
    """Neither in the clear nor with a key of its own making."""
    donor, taker = larders
    donor.offer(KEY, Whole(state_of(5)))
    assert unreachable([member(donor, Pair.draw().public)], 0.5) == [4]
    with pytest.raises(FetchBroken):
        fetched(member(donor, Pair.draw().public), taker)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"tcp://127.0.0.1:{donor.port}")
    dealer.send(msgspec.msgpack.encode(Want(generation=KEY[0], position=KEY[1], word="the word")))
    assert not dealer.poll(500)
    dealer.close(0)
    context.term()


def test_a_state_is_not_taken_in_the_clear_in_a_run_with_keys(larders: list[Larder]) -> None:
    """From a larder without a key, whoever that is."""
    plain = Larder()
    try:
        plain.offer(KEY, Whole(state_of(5)))
        with pytest.raises(FetchBroken, match="in the clear"):
            fetched(member(plain), larders[0])
    finally:
        plain.close()


def test_a_request_in_a_lock_without_the_word_is_answered_gone(larders: list[Larder]) -> None:
    """In the same words as for what is past: it tells nothing."""
    donor = larders[0]
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    lock_to(dealer, donor.key, Pair.draw())
    dealer.connect(f"tcp://127.0.0.1:{donor.port}")
    dealer.send(msgspec.msgpack.encode(Want(generation=KEY[0], position=KEY[1], word="guessed")))
    assert dealer.poll(5000)
    assert msgspec.msgpack.decode(dealer.recv(), type=Gone) == Gone(chunk=-1)
    dealer.close(0)
    context.term()
