"""The store through which groups meet: keys of one generation, waiters, limits."""

from __future__ import annotations

from control import rendezvous
from control.protocol import StoreAdd, StoreDelete, StoreGet, StoreReply, StoreSet
from control.rendezvous import Rendezvous

GENERATION = (1, 1)


def store() -> Rendezvous:
    made = Rendezvous()
    made.begin(GENERATION)
    return made


def put(made: Rendezvous, key: str, value: bytes, sphere: int = 1) -> list[tuple[int, StoreReply]]:
    return made.handle(sphere, StoreSet(generation=GENERATION, request=1, key=key, value=value))


def test_a_get_waits_until_all_its_keys_exist() -> None:
    """Whoever puts the last one wakes it, with the values in the asked order."""
    made = store()
    assert made.handle(2, StoreGet(generation=GENERATION, request=9, keys=["b", "a"])) == []
    assert put(made, "a", b"1") == [(1, StoreReply(request=1))]
    replies = put(made, "b", b"2")
    assert replies == [(1, StoreReply(request=1)), (2, StoreReply(request=9, values=[b"2", b"1"]))]
    assert put(made, "b", b"3") == [(1, StoreReply(request=1))]


def test_nothing_is_added_to_what_is_no_number_that_can_be_written() -> None:
    """Of thousands of digits Python writes none: that is the asker's trouble alone."""
    made = store()
    for value in (b"x", b"9" * 4_300):
        put(made, "a", value)
        ((_, reply),) = made.handle(1, StoreAdd(generation=GENERATION, request=2, key="a", amount=1))
        assert not reply.found


def test_a_peek_is_answered_at_once() -> None:
    """found says whether all exist."""
    made = store()
    peek = StoreGet(generation=GENERATION, request=1, keys=["a"], peek=True)
    assert [reply.found for _, reply in made.handle(1, peek)] == [False]
    put(made, "a", b"1")
    assert [reply.found for _, reply in made.handle(1, peek)] == [True]


def test_an_integer_is_added_to_and_told() -> None:
    """From zero, as decimal text, and it wakes who waits for the key."""
    made = store()
    made.handle(2, StoreGet(generation=GENERATION, request=5, keys=["n"]))
    first = made.handle(1, StoreAdd(generation=GENERATION, request=1, key="n", amount=2))
    assert first == [(1, StoreReply(request=1, values=[b"2"])), (2, StoreReply(request=5, values=[b"2"]))]
    assert made.handle(1, StoreAdd(generation=GENERATION, request=2, key="n", amount=-3))[0][1].values == [b"-1"]
    put(made, "word", b"x")
    assert made.handle(1, StoreAdd(generation=GENERATION, request=3, key="word", amount=1))[0][1].found is False


def test_a_deleted_key_is_gone() -> None:
    """And deleting it again says that it was not there."""
    made = store()
    put(made, "a", b"1")
    delete = StoreDelete(generation=GENERATION, request=1, key="a")
    assert [made.handle(1, delete)[0][1].found for _ in range(2)] == [True, False]


def test_generations_do_not_meet() -> None:
    """A newer one starts empty; who asks for another one hears nothing."""
    made = store()
    put(made, "a", b"1")
    made.handle(2, StoreGet(generation=GENERATION, request=9, keys=["b"]))
    made.begin((1, 2))
    assert put(made, "b", b"2") == []
    peek = StoreGet(generation=(1, 2), request=1, keys=["a"], peek=True)
    assert made.handle(1, peek)[0][1].found is False
    assert made.handle(1, StoreSet(generation=(1, 2), request=1, key="b", value=b"")) == [(1, StoreReply(request=1))]


def test_who_is_gone_waits_for_nothing() -> None:
    """No reply to a sphere that left."""
    made = store()
    made.handle(2, StoreGet(generation=GENERATION, request=9, keys=["a"]))
    made.forget(2)
    assert put(made, "a", b"1") == [(1, StoreReply(request=1))]


def test_limits_are_kept_in_keys_and_bytes() -> None:
    """A put over a limit changes nothing and says so; replacing and deleting make room."""
    made = store()
    assert put(made, "k" * (rendezvous.MAX_KEY_BYTES + 1), b"")[0][1].found is False
    big = b"x" * (rendezvous.MAX_BYTES // 2)
    assert put(made, "a", big)[0][1].found
    assert put(made, "b", big)[0][1].found is False
    assert put(made, "a", b"")[0][1].found
    assert put(made, "b", big)[0][1].found
    made.handle(1, StoreDelete(generation=GENERATION, request=1, key="b"))
    assert put(made, "c", big)[0][1].found
