"""A state from a peer's larder: bit for bit, or not at all, and from whom it did not come is named."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest
import torch
import zmq

from control.protocol import Member, Position
from lightwatch.snapshot import Snapshot
from spheres.fetch import Fetch, FetchBroken, StateCorrupted, unreachable
from spheres.larder import Key, Larder
from spheres.stock import Partial, Whole

KEY: Key = ((1, 3), Position(version=5))
SILENCE_S = 1.0
CHUNK = 1001


def state_of(seed: int) -> Snapshot:
    """Weights, moments, a scalar, flags, an empty one, a transposed one; facts."""
    generator = torch.Generator().manual_seed(seed)
    return Snapshot(
        {
            "weight": torch.randn(37, 41, generator=generator),
            "moment": torch.randn(700, generator=generator, dtype=torch.float64),
            "step": torch.tensor(seed),
            "flags": torch.rand(13, generator=generator) > 0.5,
            "none": torch.empty(0),
            "turned": torch.randn(6, 5, generator=generator).T,
            "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        },
        {"version": seed, "exponents": [1, 2], "digest": "é"},
    )


SIZE = sum(-(-tensor.nbytes // 64) * 64 for tensor in state_of(5).tensors.values())
COUNT = -(-SIZE // CHUNK)


def same(mine: Snapshot, other: Snapshot) -> bool:
    return (
        list(mine.tensors) == list(other.tensors)
        and mine.facts == other.facts
        and all(
            mine.tensors[name].dtype == other.tensors[name].dtype
            and torch.equal(mine.tensors[name], other.tensors[name])
            for name in mine.tensors
        )
    )


@pytest.fixture
def larders() -> Iterator[list[Larder]]:
    made = [Larder() for _ in range(3)]
    yield made
    for larder in made:
        larder.close()


def member(larder: Larder | int, sphere: int = 4) -> Member:
    port = larder if isinstance(larder, int) else larder.port
    return Member(sphere=sphere, path=f"a/{sphere}", port=port)


def fetch(donor: Larder | int, into: Larder, kept: Partial | None = None, key: Key = KEY) -> Partial:
    return Fetch(member(donor), key, kept, SILENCE_S, lambda: False).run(into)


class Gated(Whole):
    """Hands chunks over as the test lets it, and notes which."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot, CHUNK)
        self.given: list[int] = []
        self.gate = threading.Semaphore(0)

    def chunk(self, number: int) -> bytes | None:
        assert self.gate.acquire(timeout=20.0)
        self.given.append(number)
        return super().chunk(number)


@pytest.mark.parametrize("chunk", [1, 64, 1001, 1 << 20])
def test_a_state_arrives_bit_for_bit(larders: list[Larder], chunk: int) -> None:
    """All dtypes, shapes and facts, whatever the chunks; in memory of its own, aligned for use where it lies."""
    holder, joiner, _ = larders
    state = state_of(5) if chunk > 1 else Snapshot({"few": torch.arange(9)})
    holder.offer(KEY, Whole(state, chunk))
    found = fetch(holder, joiner).snapshot()
    assert same(found, state)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.tensors.values() if tensor.numel())


def test_a_state_arrives_that_was_asked_for_before_it_lay_there(larders: list[Larder]) -> None:
    """Who is to fetch may be faster than its donor."""
    state, found = state_of(5), []
    waits = threading.Thread(target=lambda: found.append(fetch(larders[0], larders[1])))
    waits.start()
    while not larders[0]._waiting:
        waits.join(0.01)
    larders[0].offer(KEY, Whole(state, CHUNK))
    waits.join(10)
    assert found and same(found[0].snapshot(), state)


def test_a_state_of_nothing_but_facts_arrives(larders: list[Larder]) -> None:
    """No tensor, no chunk."""
    larders[0].offer(KEY, Whole(Snapshot({}, {"a": 1})))
    assert fetch(larders[0], larders[1]).snapshot() == Snapshot({}, {"a": 1})


def test_joiners_form_a_chain_and_each_link_carries_one_state(larders: list[Larder]) -> None:
    """The second joiner asks the first before that has anything, and has the first half before the first has the
    other: chunks pass through one by one. The holder gives each chunk once."""
    holder, first, second = larders
    state = Gated(state_of(5))
    half = threading.Event()
    fetches = [Fetch(member(donor), KEY, None, SILENCE_S, lambda: False) for donor in (holder, first)]
    whole: dict[int, Partial] = {}

    def join(number: int, into: Larder) -> None:
        whole[number] = fetches[number].run(into)

    class Watching(Larder):
        def ring(self) -> None:
            super().ring()
            if fetches[1].partial is not None and len(fetches[1].partial.missing()) <= COUNT - COUNT // 2:
                half.set()

    second.__class__ = Watching
    threads = [threading.Thread(target=join, args=(1, second)), threading.Thread(target=join, args=(0, first))]
    threads[0].start()
    holder.offer(KEY, state)
    threads[1].start()
    state.gate.release(COUNT // 2)
    assert half.wait(20.0), "nothing passed through the first before it was done"
    assert not whole
    state.gate.release(COUNT)
    for thread in threads:
        thread.join(20.0)
    assert all(same(whole[number].snapshot(), state_of(5)) for number in range(2))
    assert sorted(state.given) == list(range(COUNT))
    assert holder.handed_bytes == first.handed_bytes == SIZE
    assert all(SIZE < fetch.came_bytes < 2 * SIZE for fetch in fetches), f"of {SIZE}: {fetches[0].came_bytes}"


LIFE = """
import os, signal, sys, threading
from control.protocol import Position
from spheres.larder import Larder
from spheres.stock import Whole
from tests.spheres.test_larder import CHUNK, KEY, state_of
class Dying(Whole):
    def chunk(self, number):
        if number == 4:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return super().chunk(number)
larder = Larder()
larder.offer(KEY, Dying(state_of(5), CHUNK))
print(larder.port, flush=True)
sys.stdin.read()
larder.close()
"""


@pytest.mark.cluster
@pytest.mark.parametrize("deed", ["SIGKILL", "SIGSTOP"])
def test_a_donor_that_dies_half_way_is_named_and_what_came_is_gone_on_with(larders: list[Larder], deed: str) -> None:
    """Killed or stopped, in a process of its own: a typed error, soon. The next donor gives only the rest."""
    command = [sys.executable, "-c", LIFE, deed]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            broken = Fetch(member(port), KEY, None, SILENCE_S, lambda: False)
            with pytest.raises(FetchBroken, match=r"could not fetch the state from sphere 4 \(a/4\): its connection"):
                broken.run(larders[1])
        finally:
            process.kill()
    kept = broken.partial
    assert kept is not None
    came = set(range(COUNT)) - set(kept.missing())
    assert {0} <= came < set(range(COUNT))
    other = Gated(state_of(5))
    other.gate.release(100)
    key = ((1, 4), KEY[1])
    larders[0].offer(key, other)
    whole = fetch(larders[0], larders[1], kept, key)
    assert whole is kept and same(whole.snapshot(), state_of(5))
    assert not came & set(other.given)


def test_a_fetch_is_begun_anew_where_the_state_is_another(larders: list[Larder]) -> None:
    """What was kept of version 5 is of no use for version 6."""
    holder, joiner, _ = larders
    holder.offer(KEY, Whole(state_of(5), CHUNK))
    kept = fetch(holder, joiner)
    key = ((1, 4), Position(version=6))
    holder.offer(key, Whole(state_of(6), CHUNK))
    found = fetch(holder, joiner, kept, key)
    assert found is not kept and same(found.snapshot(), state_of(6)) and same(kept.snapshot(), state_of(5))


def test_wrong_bytes_name_the_donor_and_go_nowhere(larders: list[Larder]) -> None:
    """One bit of one chunk: the chunks before it are kept and served, that one is neither."""

    class Lying(Whole):
        def chunk(self, number: int) -> bytes | None:
            data = super().chunk(number)
            return data if number != 2 or data is None or self.manifest is None else bytes([data[0] ^ 4]) + data[1:]

    holder, joiner, _ = larders
    holder.offer(KEY, Lying(state_of(5), CHUNK))
    lied_to = Fetch(member(holder, 7), KEY, None, SILENCE_S, lambda: False)
    with pytest.raises(StateCorrupted, match=r"sphere 7 \(a/7\) handed over chunk 2 with another hash"):
        lied_to.run(joiner)
    assert lied_to.partial is not None
    assert lied_to.partial.chunk(0) is not None and lied_to.partial.chunk(1) is not None
    assert lied_to.partial.chunk(2) is None


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_bytes": 0},
        {"chunk_bytes": 1 << 40},
        {"sha256": [b"x" * 32]},
        {"format": 99},
        {"tensors": [("a", "float32", [-4])]},
        {"tensors": [("a", "object", [4])]},
        {"tensors": [("a", "float32", [1 << 60])]},
        {"tensors": [("a", "float32", [4]), ("a", "float32", [4])]},
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(larders: list[Larder], change: dict[str, object]) -> None:
    """Before any memory is taken for it."""

    class Boasting(Whole):
        def work(self) -> bool:
            more = super().work()
            if self.manifest is not None:
                self.manifest = msgspec.structs.replace(self.manifest, **change)
            return more

    larders[0].offer(KEY, Boasting(state_of(5), CHUNK))
    with pytest.raises(StateCorrupted, match=r"sphere 4 \(a/4\) handed over a state that can't be taken"):
        fetch(larders[0], larders[1])


def test_what_a_generation_began_with_is_gone_after_it(larders: list[Larder]) -> None:
    """A request for what is past is told so at once; one for what is to come waits until it is there."""
    holder, joiner, _ = larders
    holder.offer(KEY, Whole(state_of(5), CHUNK))
    holder.withdraw()
    assert not holder.offers(KEY)
    with pytest.raises(FetchBroken, match="no longer has what this generation began with"):
        fetch(holder, joiner)
    holder.offer(((1, 4), KEY[1]), Whole(state_of(5), CHUNK))
    for past in (KEY, ((1, 4), Position(version=9))):
        with pytest.raises(FetchBroken, match="no longer has"):
            fetch(holder, joiner, key=past)


def test_a_fetch_ends_with_its_generation(larders: list[Larder]) -> None:
    """A donor that will never have it is not waited for once a newer generation was called."""
    called = threading.Event()
    wanted = Fetch(member(larders[0]), KEY, None, SILENCE_S, called.is_set)
    timer = threading.Timer(0.3, called.set)
    timer.start()
    with pytest.raises(FetchBroken, match="the generation is over"):
        wanted.run(larders[1])
    timer.join()


def test_who_cannot_be_reached_is_found_at_once_for_all(larders: list[Larder]) -> None:
    """A closed port, and one at which nobody greets, among larders that are there; who has none is not counted."""
    with zmq.Context() as context, context.socket(zmq.STREAM) as mute:
        mute.setsockopt(zmq.LINGER, 0)
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        members = [member(larders[0], 1), member(port, 2), member(9, 3), member(larders[2], 4), member(0, 5)]
        assert unreachable(members, 0.5) == [2, 3]
    assert unreachable([], 0.5) == []


def test_what_is_no_request_is_dropped(larders: list[Larder]) -> None:
    """Garbage, and what is too large: the larder serves on."""
    holder, joiner, _ = larders
    holder.offer(KEY, Whole(state_of(5), CHUNK))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{holder.port}")
        for frame in (b"", b"\xc1", b"\x80", b"x" * 5000):
            dealer.send(frame)
        assert same(fetch(holder, joiner).snapshot(), state_of(5))
