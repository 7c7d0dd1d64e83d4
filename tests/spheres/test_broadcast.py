"""A state down the tree: to everybody, bit for bit, or to nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spheres import broadcast
from spheres.broadcast import ChunkCorrupted, StateRefused, broadcast_state
from spheres.groups import Groups, PeerLost, Started
from spheres.levels import LevelPlan
from tests.spheres.spheres_as_threads import SHORT_S, TREES, members_of, on_spheres, results


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small state has many."""
    monkeypatch.setattr(broadcast, "CHUNK_BYTES", 1001)


def state_of(index: int) -> dict[str, torch.Tensor]:
    """Weights, moments, a scalar, flags, an empty one, a transposed one: different numbers on each sphere."""
    generator = torch.Generator().manual_seed(index)
    return {
        "weight": torch.randn(37, 41, generator=generator),
        "moment": torch.randn(700, generator=generator, dtype=torch.float64),
        "step": torch.tensor(index),
        "flags": torch.rand(13, generator=generator) > 0.5,
        "none": torch.empty(0),
        "turned": torch.randn(6, 5, generator=generator).T,
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
    }


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(other) and all(
        state[name].dtype == other[name].dtype and torch.equal(state[name], other[name]) for name in state
    )


@pytest.mark.parametrize("tree", TREES)
def test_every_sphere_ends_with_the_first_ones_state(tree: str) -> None:
    """All dtypes and shapes, in the tensors that were there before; the holder's own are not touched."""

    def work(groups: Groups, index: int) -> dict[str, torch.Tensor]:
        state = state_of(index)
        addresses = [tensor.data_ptr() for tensor in state.values()]
        broadcast_state(groups, state, index == 0)
        assert [tensor.data_ptr() for tensor in state.values()] == addresses
        return state

    assert all(same(state, state_of(0)) for state in results(on_spheres(tree, work)))


@pytest.mark.parametrize("tree", ["3", "2x2x2", "a:2,b:1"])
def test_a_link_carries_one_state(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader hands each other member the state once, and little more (manifest, counts); members hand over counts."""
    monkeypatch.setattr(broadcast, "CHUNK_BYTES", 50_000)

    def work(groups: Groups, index: int) -> dict[int, tuple[int, int]]:
        broadcast_state(groups, {"weight": torch.full((100_000,), float(index))}, index == 0)
        return {line.level: (line.up, line.down) for line in groups.meter.lines()}

    members = members_of(tree)
    for index, levels in enumerate(results(on_spheres(tree, work))):
        groups = Groups(members, members[index].sphere, (1, 1))
        for plan in groups.plans:
            up, down = levels[plan.level]
            others = len(plan.members) - 1
            assert up <= 16 and (400_000 * others <= down < 401_000 * others if plan.rank == 0 else down <= 16)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": torch.zeros(41, 37)}, r"holds 'weight' as float32 \[41, 37\], the first sphere offers 'weight' as"),
        ({"moment": torch.zeros(700)}, r"holds 'moment' as float32 \[700\]"),
        ({"extra": torch.zeros(1)}, r"holds 8 tensors, the first sphere offers 7"),
    ],
)
@pytest.mark.parametrize("odd", [1, 2, 3])
def test_a_state_that_does_not_fit_is_refused_and_the_old_one_kept(
    odd: int, change: dict[str, torch.Tensor], sentence: str
) -> None:
    """Shape, dtype, names: the odd sphere says what differs, the others that one refused; nobody took anything."""

    def work(groups: Groups, index: int) -> None:
        state = state_of(index) | ({name: tensor.clone() for name, tensor in change.items()} if index == odd else {})
        before = {name: tensor.clone() for name, tensor in state.items()}
        with pytest.raises(StateRefused) as refusal:
            broadcast_state(groups, state, index == 0)
        assert same(state, before)
        if index == odd:
            refusal.match(f"sphere {11 + odd} .*{sentence}")
        else:
            refusal.match("1 other sphere")

    results(on_spheres("2x2", work))


def test_a_missing_name_is_refused() -> None:
    """The names in their order, not only how many."""

    def work(groups: Groups, index: int) -> None:
        name = "bias" if index else "weight"
        with pytest.raises(StateRefused, match="'bias'" if index else "1 other sphere"):
            broadcast_state(groups, {name: torch.zeros(3)}, index == 0)

    results(on_spheres("2", work))


class Flipping(Groups):
    """The wire of one sphere: chunk number `bad` arrives with one bit flipped."""

    bad = 2
    arrived = -1
    passed_on: list[bytes]

    def broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
        super().broadcast(plan, tensor)
        if plan.rank and tensor.numel() == broadcast.CHUNK_BYTES:
            self.arrived += 1
            if self.arrived == self.bad:
                tensor[500] ^= 4

    def start_broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> Started:
        if plan.rank == 0 and tensor.numel() == broadcast.CHUNK_BYTES:
            self.passed_on.append(tensor.numpy().tobytes())
        return super().start_broadcast(plan, tensor)


def test_a_corrupted_chunk_is_not_passed_on() -> None:
    """In the middle of a deep tree: it passes on the chunks before it, then all stop, with their old states."""
    numbers = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    good = [numbers[start : start + 1001].tobytes() for start in range(0, 9 * 1001, 1001)]

    def work(groups: Groups, index: int) -> list[bytes]:
        tensor = torch.from_numpy(numbers.copy() if index == 0 else np.full_like(numbers, index))
        if index == 4:
            groups.__class__ = Flipping
            assert isinstance(groups, Flipping)
            groups.passed_on = []
        error = ChunkCorrupted if index == 4 else PeerLost
        with pytest.raises(error, match=r"chunk 2 of 10 with another hash" if index == 4 else "could not"):
            broadcast_state(groups, {"state": tensor}, index == 0)
        assert index == 0 or bool((tensor == index).all())
        return groups.passed_on if isinstance(groups, Flipping) else []

    passed_on = results(on_spheres("2x2x2", work, SHORT_S))[4]
    assert passed_on and all(chunk in good[:2] for chunk in passed_on)


def test_a_corrupted_manifest_is_not_passed_on() -> None:
    """Sphere 13 leads the second group of two: 14 hears nothing of a manifest that does not fit its hash."""

    class Garbling(Groups):
        def broadcast(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
            super().broadcast(plan, tensor)
            if plan.rank and tensor.numel() > 40:
                tensor[20] ^= 1

    def work(groups: Groups, index: int) -> None:
        state = state_of(index)
        if index == 2:
            groups.__class__ = Garbling
        with pytest.raises(ChunkCorrupted if index == 2 else PeerLost, match="manifest" if index == 2 else "could not"):
            broadcast_state(groups, state, index == 0)
        assert same(state, state_of(index))

    results(on_spheres("2x2", work, SHORT_S))


def test_only_the_first_member_gives_its_state() -> None:
    """Two holders, or none, would be our own mistake: refused before anything is sent."""

    def work(groups: Groups, index: int) -> None:
        with pytest.raises(ValueError, match="the state comes from the first member"):
            broadcast_state(groups, {"weight": torch.zeros(1)}, index != 0)

    results(on_spheres("2", work))


def test_a_broken_off_broadcast_leaves_the_old_state() -> None:
    """The last sphere goes away after the manifest: no other has changed a single tensor."""

    def work(groups: Groups, index: int) -> None:
        state = state_of(index)
        if index == 3:
            broadcast._share(groups, None)
            groups.abort()
            return
        with pytest.raises(PeerLost):
            broadcast_state(groups, state, index == 0)
        assert same(state, state_of(index))

    results(on_spheres("2x2", work, SHORT_S))
