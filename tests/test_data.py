"""Micro-batches by number: each sample once an epoch, the same from any process, at any time, in any order."""

from __future__ import annotations

import random
from collections import Counter, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightwatch.corpus import Corpus
from lightwatch.data import Batch, Batches, TextData, collated, key, permuted, weight_of
from lightwatch.errors import DataError


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    """Sample k is (k, 2k) as floats: what a batch holds can be read off."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if not 0 <= number < self.length:
            raise IndexError(number)
        return torch.tensor([float(number)]), torch.tensor([2.0 * number])


class Noisy(Numbers):
    """Augments each sample with numbers from all three global generators."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1) + random.random() + float(np.random.rand())
        return super().__getitem__(number)[0] + noise, torch.tensor([1.0])


class Stream(IterableDataset[int]):
    """Can only be read in order."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def batches(length: int, *, seed: int = 1, micro_batches: int = 4, batch_size: int = 3) -> Batches:
    return Batches(Numbers(length), seed=seed, micro_batches=micro_batches, batch_size=batch_size)


def shown(made: Batches, step: int) -> list[list[int]]:
    """The sample numbers of each micro-batch of a step, read from the batches themselves."""
    numbers = []
    for index in range(made.micro_batches):
        batch = made.batch(step, index)
        numbers.append([] if batch.inputs is None else [int(x) for x in batch.inputs.reshape(-1)])
    return numbers


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 150), seed=st.integers(0, 2**63 - 1), micro_batches=st.integers(1, 9), size=st.integers(1, 9)
)
def test_an_epoch_shows_each_sample_once(length: int, seed: int, micro_batches: int, size: int) -> None:
    """Whatever the length: all samples, none twice, the ragged last step kept, and no step more than needed."""
    made = batches(length, seed=seed, micro_batches=micro_batches, batch_size=size)
    steps = made.steps_per_epoch
    assert (steps - 1) * micro_batches * size < length <= steps * micro_batches * size
    for epoch in (0, 1, 5):
        seen = [number for step in range(steps) for batch in shown(made, epoch * steps + step) for number in batch]
        assert sorted(seen) == list(range(length))


def test_the_last_step_is_ragged_and_its_rest_is_empty() -> None:
    """29 samples in steps of 4 x 3: two full steps, then 3, 2, 0, 0; an empty one is None and weighs nothing."""
    made = batches(29)
    assert made.steps_per_epoch == 3
    assert [[len(numbers) for numbers in shown(made, step)] for step in range(4)] == [
        [3, 3, 3, 3],
        [3, 3, 3, 3],
        [3, 2, 0, 0],
        [3, 3, 3, 3],
    ]
    assert made.batch(2, 2) == Batch(inputs=None, targets=None, weight=0, samples=0)
    assert [made.epoch_of(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_the_order_is_the_keyed_permutation_of_the_epoch() -> None:
    """Position p of epoch e shows sample permuted(p, length, key(seed, e, 0, "order")), the same whatever the sizes."""
    made = batches(50, seed=9)
    for epoch in (0, 3):
        seen = [n for step in range(made.steps_per_epoch) for b in shown(made, epoch * 5 + step) for n in b]
        assert seen == [permuted(place, 50, key(9, epoch, 0, "order")) for place in range(50)]
    other = batches(50, seed=9, micro_batches=2, batch_size=7)
    assert [n for step in range(other.steps_per_epoch) for b in shown(other, step) for n in b] == [
        n for step in range(made.steps_per_epoch) for b in shown(made, step) for n in b
    ]


def test_epochs_and_seeds_shuffle_anew() -> None:
    """No two epochs, and no two seeds, have the same order."""
    orders = set()
    for seed in (1, 2):
        made = batches(60, seed=seed)
        for epoch in range(4):
            orders.add(tuple(n for step in range(5) for b in shown(made, epoch * 5 + step) for n in b))
    assert len(orders) == 8


def test_a_batch_is_the_same_whenever_and_wherever_it_is_asked_for() -> None:
    """No iterator state: another object, any order, after foreign draws, gives the same numbers and the same noise."""
    first = Batches(Noisy(40), seed=4, micro_batches=4, batch_size=3)
    wanted = [(step, index) for step in range(8) for index in range(4)]
    expected = {at: first.batch(*at) for at in wanted}
    again = Batches(Noisy(40), seed=4, micro_batches=4, batch_size=3)
    for at in random.Random(1).sample(wanted, len(wanted)):
        torch.rand(3), random.random(), np.random.rand()
        batch = again.batch(*at)
        if batch.samples:
            assert torch.equal(batch.inputs, expected[at].inputs)
        assert batch.weight == expected[at].weight
    noise = {float(batch.inputs[0] % 1) for batch in expected.values() if batch.samples}
    assert len(noise) == sum(batch.samples > 0 for batch in expected.values())


def test_evaluation_goes_through_the_data_in_order() -> None:
    """No shuffle, the ragged end kept, empty past it, and the same noise each time."""
    made = batches(8)
    seen = [made.evaluation(index) for index in range(4)]
    assert [[] if b.inputs is None else b.inputs.reshape(-1).tolist() for b in seen] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
        [],
    ]
    assert [b.samples for b in seen] == [3, 3, 2, 0] and made.evaluations == 3
    noisy = Batches(Noisy(8), seed=1, micro_batches=2, batch_size=4)
    assert torch.equal(noisy.evaluation(1).inputs, noisy.evaluation(1).inputs)
    empty = batches(0)
    assert empty.evaluations == 0 and empty.evaluation(0).weight == 0


def test_numbers_outside_are_refused() -> None:
    """A wrong index must not quietly show somebody else's samples."""
    made = batches(20)
    for step, index in [(-1, 0), (0, -1), (0, 4)]:
        with pytest.raises(IndexError, match=rf"no micro-batch {index} in step {step}"):
            made.batch(step, index)
    with pytest.raises(IndexError, match="got -1"):
        made.evaluation(-1)


def test_integer_targets_weigh_what_is_learned_and_others_what_is_there() -> None:
    """-100 is ignored; floats, truth values and foreign objects weigh their samples."""
    assert weight_of(torch.tensor([[1, -100, 3], [-100, -100, 0]]), 2) == 3
    assert weight_of(torch.tensor([-100, -100]), 2) == 0
    assert weight_of(torch.tensor([1, 2], dtype=torch.int32), 5) == 2
    assert weight_of(torch.tensor([1, -101, -100]), 3) == 2
    assert weight_of(torch.tensor([], dtype=torch.int64), 1) == 0
    assert weight_of(torch.tensor([156, 1], dtype=torch.uint8), 2) == 2, "156 is -100 in eight bits, and a class"
    assert weight_of(torch.tensor([1, 2, 3], dtype=torch.uint16), 1) == 3
    assert weight_of(torch.tensor([[-100.0, 1.0]]), 1) == 1
    assert weight_of(torch.tensor([[True, False]]), 1) == 1
    assert weight_of({"boxes": 1}, 4) == 4
    data = [(torch.ones(2), torch.tensor([n, -100])) for n in range(6)]
    assert Batches(data, seed=1, micro_batches=1, batch_size=4).batch(0, 0)[2:] == (4, 4)
    with pytest.raises(DataError, match=r"at most 16777215 targets, got 16777216"):
        weight_of(torch.ones(1), 2**24)


def test_a_collate_function_makes_the_pair() -> None:
    """It gets the list of samples in order and may do what it likes, with seeded generators."""
    got: list[list[Any]] = []

    def collate(samples: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        got.append(samples)
        return {"x": torch.stack([x for x, _ in samples])}, torch.cat([y for _, y in samples]).long()

    made = Batches(Numbers(10), seed=1, micro_batches=1, batch_size=4, collate_fn=collate)
    batch = made.batch(0, 0)
    numbers = made.samples_of(0, 0)
    assert [int(x) for x, _ in got[0]] == numbers and len(numbers) == 4
    assert batch.inputs["x"].reshape(-1).tolist() == numbers and batch.targets.tolist() == [2 * n for n in numbers]
    assert (batch.weight, batch.samples) == (4, 4)


Pair = namedtuple("Pair", "inputs targets")
ROWS = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "samples",
    [
        [(ROWS[n], torch.tensor(n)) for n in range(4)],
        [(ROWS[n], n) for n in range(4)],
        [(ROWS[n].numpy(), float(n)) for n in range(4)],
        [({"x": ROWS[n], "name": "a"}, ROWS[n, 0]) for n in range(4)],
        [((ROWS[n], n), [ROWS[n], n]) for n in range(4)],
        [[ROWS[n], torch.tensor(n)] for n in range(4)],
        [Pair(ROWS[n], torch.tensor(n)) for n in range(4)],
        [(ROWS[n],) for n in range(4)],
        [(ROWS[n], ROWS[n], ROWS[n]) for n in range(4)],
        [(nn.Parameter(ROWS[n]), ROWS[n]) for n in range(4)],
        [(ROWS.T[0], ROWS[:, 1:])],
        list(ROWS),
        [{"x": ROWS[0]}, {"x": ROWS[1]}],
        [(ROWS[0], 1), (ROWS[1], 1, 1)],
        [(ROWS[0], 1), (ROWS, 1)],
        [(ROWS[0], 1), (ROWS[0].int(), 2.5)],
        [(ROWS[0], 1), 5],
        [(ROWS[0].to_sparse(), 1), (ROWS[0].to_sparse(), 1)],
        [(torch.nested.nested_tensor([ROWS], layout=torch.jagged), 1)] * 2,
        [(ROWS[0], object())] * 2,
    ],
)
def test_pairs_are_collated_as_torch_does(samples: list[Any]) -> None:
    """The same types, bits and memory, and the same refusal where there is one."""

    def outcome(collate: Any) -> Any:
        try:
            return collate(samples)
        except (RuntimeError, TypeError) as error:
            return type(error), str(error)

    ours, theirs = outcome(collated), outcome(default_collate)
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)
    flat, expected = torch.utils._pytree.tree_leaves(ours), torch.utils._pytree.tree_leaves(theirs)
    for one, other in zip(flat, expected, strict=True):
        if isinstance(other, Tensor):
            assert torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(Numbers(3)), "got a DataLoader: pass its .dataset"),
        (Stream(), "Stream is an IterableDataset: give it __len__ and __getitem__"),
        (iter([1, 2]), "got list_iterator: pass an object with __len__ and __getitem__"),
        ({0: (1, 2)}, "got dict"),
        (None, "got NoneType"),
        (Dataset(), "got Dataset"),
    ],
)
def test_data_without_random_access_is_refused_with_what_to_pass(data: Any, words: str) -> None:
    """The sentence says what to give instead."""
    with pytest.raises(DataError) as caught:
        Batches(data, seed=1, micro_batches=1, batch_size=1)
    assert words in str(caught.value)


def test_an_empty_dataset_can_not_be_trained_on() -> None:
    """Nor does it end in a division by zero."""
    for ask in (
        lambda: batches(0).steps_per_epoch,
        lambda: batches(0).batch(0, 0),
        lambda: batches(0).epoch_of(3),
    ):
        with pytest.raises(DataError, match="Numbers holds no sample"):
            ask()


@pytest.mark.parametrize("sample", [torch.ones(2), {"x": torch.ones(1)}, (torch.ones(1), torch.ones(1), torch.ones(1))])
def test_a_sample_that_is_no_pair_is_refused(sample: Any) -> None:
    """The sentence names the dataset's type and says what to return."""
    with pytest.raises(DataError, match=r"must be a pair \(inputs, targets\), list gave"):
        Batches([sample] * 4, seed=1, micro_batches=1, batch_size=3).batch(0, 0)


def test_memory_that_is_badly_aligned_is_copied() -> None:
    """Some kernels give other bits for it: the values stay, the address becomes a multiple of 64, nested too."""
    odd = torch.arange(33.0)[1:]

    def collate(_: list[Any]) -> tuple[Any, Tensor]:
        return {"a": [odd, (odd,)], "b": "text"}, odd

    batch = Batches(Numbers(4), seed=1, micro_batches=1, batch_size=4, collate_fn=collate).batch(0, 0)
    for tensor in (batch.inputs["a"][0], batch.inputs["a"][1][0], batch.targets):
        assert torch.equal(tensor, odd) and tensor.data_ptr() % 64 == 0 != odd.data_ptr() % 64
    assert batch.inputs["b"] == "text"


def test_the_fingerprint_tells_datasets_apart_and_processes_agree() -> None:
    """Length, type and samples count; the seed and the caller's generators do not, and those stay as they were."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    prints = {
        name: Batches(data, seed=1, micro_batches=1, batch_size=1).fingerprint
        for name, data in {
            "numbers": Numbers(30),
            "longer": Numbers(31),
            "noisy": Noisy(30),
            "list": [(n, 2 * n) for n in range(30)],
            "last changed": [(n, 2 * n if n < 29 else 0) for n in range(30)],
            "names": [{"x": n} for n in range(3)],
            "other names": [{"y": n} for n in range(3)],
            "arrays": [(np.full(2, n), "a") for n in range(3)],
            "other arrays": [(np.full(2, n, dtype=np.float32), "a") for n in range(3)],
            "objects": [(object(), n) for n in range(3)],
            "empty": [],
        }.items()
    }
    assert len(set(prints.values())) == len(prints) and {len(value) for value in prints.values()} == {64}
    assert Batches(Noisy(30), seed=1, micro_batches=3, batch_size=4).fingerprint == prints["noisy"]
    objects = [(object(), n) for n in range(3)]
    assert Batches(objects, seed=1, micro_batches=1, batch_size=1).fingerprint == prints["objects"]
    assert torch.equal(torch.rand(2), expected)


def test_text_is_cut_into_sequences_and_what_follows_them(tmp_path: Path) -> None:
    """Sample k is bytes k*L to k*L+L+1; every byte that has a successor is an input once, but for the ragged end."""
    text = bytes(random.Random(1).randrange(1, 256) for _ in range(2000))
    (tmp_path / "t").write_bytes(text)
    data = TextData(tmp_path / "t", 64)
    train = text[:1900]
    assert data.bytes == 1900 and len(data) == 1899 // 64
    for number in range(len(data)):
        inputs, targets = data[number]
        window = list(train[number * 64 : number * 64 + 65])
        assert inputs.tolist() == window[:-1] and targets.tolist() == window[1:]
        assert inputs.dtype == targets.dtype == torch.int64
    for number in (-1, len(data)):
        with pytest.raises(IndexError):
            data[number]
    exact = TextData(Corpus(text[:129], b"", ("t",), (), 0), 64)
    assert len(exact) == 2 and len(TextData(Corpus(text[:128], b"", ("t",), (), 0), 64)) == 1


def test_the_held_out_part_is_another_dataset_of_the_same_text(tmp_path: Path) -> None:
    """It shares no byte with the training part and may hold nothing."""
    (tmp_path / "t").write_bytes(b"a" * 1900 + b"b" * 100)
    data = TextData(tmp_path / "t", 32)
    held_out = data.held_out()
    assert len(held_out) == 99 // 32 and held_out.corpus is data.corpus and held_out.part == "held_out"
    assert {int(x) for number in range(len(held_out)) for x in held_out[number][0]} == {ord("b")}
    assert {int(x) for number in range(len(data)) for x in data[number][1]} == {ord("a")}
    assert data.held_out_bytes() == b"b" * 100 and data.files == ("t",) == data.held_out_files
    assert len(TextData(tmp_path / "t", 32, "held_out")) == len(held_out)
    none = TextData(Corpus(b"a" * 100, b"", ("t",), (), 0), 32, "held_out")
    assert len(none) == 0 and Batches(none, seed=1, micro_batches=1, batch_size=1).evaluation(0).samples == 0
    with pytest.raises(DataError, match="got 'test'"):
        TextData(tmp_path / "t", 32, "test")  # type: ignore[arg-type]


def test_text_knows_itself_by_all_that_decides_its_samples(tmp_path: Path) -> None:
    """Equal for a copy of the text elsewhere; another for another byte, length of sequence, or part."""
    for name, end in [("a", b"x"), ("b", b"x"), ("c", b"y")]:
        (tmp_path / name).write_bytes(b"x" * 999 + end)
    first = TextData(tmp_path / "a", 16)
    assert Batches(first, seed=1, micro_batches=1, batch_size=1).fingerprint == first.fingerprint
    assert TextData(tmp_path / "b", 16).fingerprint == first.fingerprint
    others = [TextData(tmp_path / "c", 16), TextData(tmp_path / "a", 17), first.held_out()]
    assert len({first.fingerprint, *(one.fingerprint for one in others)}) == 4


def test_text_errors_are_the_corpus_errors(tmp_path: Path) -> None:
    """One judge of the data for the launcher and for the script."""
    with pytest.raises(DataError, match="No such file"):
        TextData(tmp_path / "missing", 16)


def test_batches_of_text_hold_whole_sequences_with_their_weight() -> None:
    """(batch, length) integers, weight = targets; the counts of an epoch are those of the text."""
    text = bytes(range(1, 251)) * 4
    data = TextData(Corpus(text, b"", ("t",), (), 0), 16)
    made = Batches(data, seed=2, micro_batches=3, batch_size=4)
    batch = made.batch(0, 1)
    assert batch.inputs.shape == batch.targets.shape == (4, 16) and batch[2:] == (64, 4)
    counts = Counter(made.batch(step, index).weight for step in range(made.steps_per_epoch) for index in range(3))
    assert sum(weight * times for weight, times in counts.items()) == len(data) * 16
