"""Buckets and records on their way over a tree, against numpy and against what was planted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from spheres.exchange import Exchange
from spheres.groups import Groups, PeerLost
from spheres.levels import LevelPlan
from spheres.pipeline import Pipeline
from tests.spheres.spheres_as_threads import PATIENCE_S, SHORT_S, TREES, members_of, on_spheres, results

COUNT = 7


def bucket(index: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Bucket `number` of sphere `index`: two sizes, so that some are alike."""
    generator = np.random.default_rng([index, number])
    return generator.integers(-(2**24), 2**24, 1000 + 500 * (number % 2), dtype=np.int32)


@pytest.mark.parametrize("tree", TREES)
def test_buckets_under_way_together_each_become_their_own_sum(tree: str) -> None:
    """Several at once, twice over, with a record summed behind each time; on every sphere of every tree."""

    def work(groups: Groups, index: int) -> list[list[int]]:
        pipeline = Pipeline(groups)
        found = []
        for _ in range(2):
            for number in range(COUNT):
                pipeline.start(torch.from_numpy(bucket(index, number).copy()))
            found.append([int(each.to(torch.int64).sum()) for each in pipeline.finish()])
            record = torch.tensor([index, 2**40 + index])
            pipeline.exchange(record)
            found.append(record.tolist())
        pipeline.close()
        return found

    spheres = range(len(members_of(tree)))
    sums = [sum(int(bucket(index, number).sum(dtype=np.int64)) for index in spheres) for number in range(COUNT)]
    record = [sum(spheres), sum(2**40 + index for index in spheres)]
    for found in results(on_spheres(tree, work)):
        assert found == [sums, record, sums, record]


def test_a_bucket_descends_while_the_next_one_crosses_the_top() -> None:
    """The top's second all-reduce begins only after the first bucket has been handed down, and it does begin: with one
    thread for the whole way, or one group for both directions, this would end in a time-out."""
    descended = threading.Event()

    class Late(Groups):
        tops = 0

        def all_reduce(self, plan: LevelPlan, tensor: torch.Tensor) -> None:
            self.tops += 1
            if self.tops == 2:
                assert descended.wait(PATIENCE_S)
            super().all_reduce(plan, tensor)

    def work(groups: Groups, index: int) -> int:
        if index == 0:
            groups.__class__ = Late
            groups.tops = 0  # type: ignore[attr-defined]
        pipeline = Pipeline(groups)
        for number in range(2):
            pipeline.start(torch.full((10,), number + 1, dtype=torch.int32))
        if index == 1:
            first = pipeline._take(pipeline._done)
            assert first.tolist() == [4] * 10
            descended.set()
            pipeline._under_way = 1
        sums = pipeline.finish()
        pipeline.close()
        return int(sums[-1][0])

    assert results(on_spheres("2x2", work)) == [8] * 4


def test_starting_a_bucket_neither_blocks_nor_raises() -> None:
    """Nobody else has come, or the groups are broken: `finish` is where that is heard, by every later call too."""

    def work(groups: Groups, index: int) -> None:
        pipeline = Pipeline(groups)
        if index == 0:
            pipeline.start(torch.ones(10, dtype=torch.int32))
            groups.abort()
            pipeline.start(torch.ones(10, dtype=torch.int32))
            with pytest.raises(PeerLost):
                pipeline.finish()
            with pytest.raises(PeerLost):
                pipeline.exchange(torch.ones(3, dtype=torch.int64))
        else:
            pipeline.start(torch.ones(10, dtype=torch.int32))
            with pytest.raises(PeerLost):
                pipeline.finish()
        pipeline.close()

    results(on_spheres("2", work, SHORT_S))


def test_a_record_that_will_not_come_ends_when_the_groups_are_broken_off() -> None:
    """gloo is not asked to wait less long: whoever waits looks at the groups. Its own vector is as it was."""

    def work(groups: Groups, index: int) -> None:
        pipeline = Pipeline(groups)
        if index == 0:
            timer = threading.Timer(0.3, groups.abort)
            timer.start()
            vector = torch.ones(3, dtype=torch.int64)
            with pytest.raises(PeerLost):
                pipeline.exchange(vector)
            assert vector.tolist() == [1, 1, 1]
            timer.join()
        pipeline.close()

    results(on_spheres("2", work, SHORT_S))


@pytest.mark.parametrize(
    ("tree", "slow", "link"),
    [("2x2", 2, "0 – 1"), ("2x2", 3, "1/0 – 1/1"), ("4", 2, "0 – 2"), ("2x2", 1, "0/0 – 0/1")],
)
def test_a_delay_planted_in_one_link_is_found_under_its_name(tree: str, slow: int, link: str) -> None:
    """50 ms on the way up from one sphere; who is merely busy for as long delays nobody's link."""
    delay_s = 0.05

    class Distant(Groups):
        def send(self, plan: LevelPlan, rank: int, tensor: torch.Tensor) -> None:
            if rank == 0:
                time.sleep(delay_s)
            super().send(plan, rank, tensor)

    def work(groups: Groups, index: int) -> dict[str, float]:
        if index == slow:
            groups.__class__ = Distant
        exchange = Exchange(groups)
        for _ in range(5):
            if index == 3:
                time.sleep(delay_s)  # computes for longer than the others
            exchange.sum(torch.ones(4, dtype=torch.int64))
        exchange.close()
        return exchange.round_trips()

    found = {name: seconds for each in results(on_spheres(tree, work)) for name, seconds in each.items()}
    assert len(found) == 3
    assert found.pop(link) >= delay_s
    assert max(found.values()) < delay_s / 2
