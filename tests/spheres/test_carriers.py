"""What carries a group's buckets, and how they come there from another device: without a GPU, NCCL's place is taken by
gloo under NCCL's name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._C import _distributed_c10d as c10d
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import ProcessGroupGloo

from spheres import nccl
from spheres.groups import Groups, PeerLost
from spheres.levels import backend_of
from spheres.pipeline import Pipeline
from spheres.reduce import by_host, stages_of
from tests.spheres.spheres_as_threads import PATIENCE_S, SHORT_S, members_of, on_spheres, results


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=5))
def test_nccl_carries_a_group_only_if_each_member_has_a_gpu_of_its_own(gpus: list[str]) -> None:
    """Two on one GPU, or one without: gloo. Whoever stands where in the list, all come to the same."""
    own = all(gpus.count(gpu) == 1 and gpu for gpu in gpus)
    assert backend_of(gpus) == backend_of(gpus[::-1]) == ("nccl" if own else "gloo")


class StandIn:
    """ProcessGroupNCCL as far as it is used here, by gloo."""

    made: ClassVar[list[StandIn]] = []

    class Options:
        _timeout = timedelta()

    def __init__(self, store: Store, rank: int, size: int, options: Options) -> None:
        told = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        told._devices, told._timeout = [ProcessGroupGloo.create_device(hostname="127.0.0.1")], options._timeout
        self.used: Counter[str] = Counter()
        self.aborted = threading.Event()
        self._inner: Any = ProcessGroupGloo(store, rank, size, told)
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        self.used[name] += 1
        return getattr(self._inner, name)

    def abort(self) -> None:
        self.aborted.set()
        self._inner = None


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandIn]]:
    """All that were made."""
    monkeypatch.setattr(c10d, "ProcessGroupNCCL", StandIn, raising=False)
    for name in nccl.SETTINGS:
        monkeypatch.setenv(name, "0")  # so that what is set meanwhile is taken back
    monkeypatch.setattr(StandIn, "made", [])
    yield StandIn.made
    StandIn.made.clear()


def sum_buckets(groups: Groups, index: int) -> tuple[list[list[int]], list[int]]:
    """Three buckets and a record: what became of them."""
    pipeline = Pipeline(groups)
    for number in range(3):
        pipeline.start(torch.tensor([index, number, 2**30 >> index], dtype=torch.int32))
    sums = [bucket.tolist() for bucket in pipeline.finish()]
    record = torch.tensor([index, 2**40])
    pipeline.exchange(record)
    pipeline.close()
    return sums, record.tolist()


@pytest.mark.parametrize(
    ("tree", "gpus", "groups", "calls"),
    [
        ("3", ["a", "b", "c"], 3, {"allreduce": 3 + 9}),
        ("3", ["a", "b", ""], 0, {}),
        ("3", ["a", "b", "a"], 0, {}),
        ("2x2", ["a", "b", "c", "d"], 2 + 8, {"allreduce": 10 + 6, "reduce": 12, "broadcast": 12}),
        # Two share a GPU: their group is gloo's, the other host's and the one across NCCL's.
        ("2x2", ["a", "a", "c", "d"], 2 + 4, {"allreduce": 6 + 6, "reduce": 6, "broadcast": 6}),
    ],
)
def test_buckets_go_by_nccl_group_by_group_and_records_never(
    stand_ins: list[StandIn], tree: str, gpus: list[str], groups: int, calls: dict[str, int]
) -> None:
    """The sums are the same ones, whoever carries them. Each NCCL group adds one word of its own as it is built."""

    def prepare(each: Groups, index: int) -> None:
        each.gpu = gpus[index]

    spheres = range(len(gpus))
    sums = [[sum(spheres), number * len(gpus), sum(2**30 >> i for i in spheres)] for number in range(3)]
    for found in results(on_spheres(tree, sum_buckets, prepare=prepare)):
        assert found == (sums, [sum(spheres), len(gpus) * 2**40])
    assert len(stand_ins) == groups
    assert sum((each.used for each in stand_ins), Counter()) == Counter(calls)
    assert all(each.aborted.wait(PATIENCE_S) for each in stand_ins)


def test_a_bucket_that_nobody_meets_ends_when_the_groups_are_broken_off(stand_ins: list[StandIn]) -> None:
    """No socket breaks where NCCL waits: the word of whoever breaks off must do, and NCCL is told to abort."""

    def prepare(each: Groups, index: int) -> None:
        each.gpu = f"gpu {index}"

    def work(groups: Groups, index: int) -> float:
        if index:
            return 0.0
        timer = threading.Timer(0.3, groups.abort)
        timer.start()
        began_s = time.monotonic()
        with pytest.raises(PeerLost, match="broken off"):
            groups.all_reduce(groups.plans[0], torch.ones(3, dtype=torch.int32))
        timer.join()
        return time.monotonic() - began_s

    assert results(on_spheres("2", work, SHORT_S, prepare))[0] < 2
    assert all(each.aborted.wait(PATIENCE_S) for each in stand_ins)


def test_a_group_that_nccl_can_not_connect_is_a_lost_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next generation tries again; nothing of this one stays."""

    def refuse(*_words: object) -> None:
        raise RuntimeError("unhandled system error\nand its stack")

    def prepare(each: Groups, index: int) -> None:
        each.gpu = f"gpu {index}"

    monkeypatch.setattr(nccl, "build", refuse)
    found = on_spheres("2", lambda _groups, _index: None, prepare=prepare)
    assert all(isinstance(each, PeerLost) for each in found)
    said = "RuntimeError: unhandled system error [LW408]"  # the other one may meet a peer that is gone already
    assert any(said in str(each) for each in found)


def test_a_bucket_on_a_gpu_goes_by_a_copy_through_a_group_of_gloos_alone() -> None:
    """Where NCCL carries none of a sphere's groups the buckets are on the CPU from the start, and nothing is copied."""
    groups = Groups(members_of("2x2"), 11, (1, 1))
    groups.device = torch.device("cuda", 0)
    assert not any(goes_by_copy(stage) for stage in stages_of(groups).values())
    across, at_home = groups.plans
    for plan, copied in ((across, [True, False, True]), (at_home, [False, True, False])):
        groups._on_gpus = {(plan.level, "up"): object()}
        assert [goes_by_copy(stage) for stage in stages_of(groups).values()] == copied


def goes_by_copy(stage: Any) -> bool:
    return stage.func is by_host


class Work:
    """A collective on a GPU, by its script: how often it is looked at before it has ended, and how."""

    def __init__(self, looks: int, success: bool = True) -> None:
        self.looks, self.success, self.waited = looks, success, 0

    def is_completed(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def is_success(self) -> bool:
        return self.success

    def wait(self) -> None:
        self.waited += 1


def test_the_end_of_a_collective_on_a_gpu_is_looked_for_and_not_waited_for() -> None:
    """Ended, not yet, or failed: NCCL's own wait is called only once there is nothing to wait for."""
    ended, endless, failed = Work(3), Work(10**9), Work(3, success=False)
    assert nccl.ends_within(ended, 10.0) and ended.waited == 1  # type: ignore[arg-type]
    assert not nccl.ends_within(endless, 0.01) and endless.waited == 0  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="NCCL reports an error"):
        nccl.ends_within(failed, 10.0)  # type: ignore[arg-type]
    assert failed.waited == 0


@pytest.mark.parametrize(
    ("work", "told"), [(Work(0), "NCCL added 2 ones to 1"), (Work(10**9), "NCCL did not connect within 0.01 s")]
)
def test_nccl_that_adds_wrongly_or_not_at_all_is_found_where_it_is_built(
    monkeypatch: pytest.MonkeyPatch, work: Work, told: str
) -> None:
    """One word from each member must make as many as there are, before any step counts on it. Of what it would do by
    itself about a failure, everything is off."""

    class Wrong(StandIn):
        def __init__(self, *_words: object) -> None:
            pass

        def allreduce(self, _tensors: object) -> Work:
            return work

    for name in nccl.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(c10d, "ProcessGroupNCCL", Wrong, raising=False)
    with pytest.raises(RuntimeError, match=told):
        nccl.build(HashStore(), 0, 2, timedelta(seconds=0.01), torch.device("cpu"))
    assert {name: os.environ.pop(name) for name in nccl.SETTINGS} == dict.fromkeys(nccl.SETTINGS, "0")


FAR = """
import os
import torch
from tests.spheres import far
from tests.spheres.spheres_as_threads import on_spheres, results
from spheres.reduce import by_host
from spheres.wires import Wires

far.register()

def work(groups, index):
    wires = Wires(groups)
    for number in range(2):
        wires.send((torch.arange(5, dtype=torch.int32) + index + number).to("far"))
    sums = wires.sums()
    assert [each.device.type for each in sums] == ["far", "far"]
    wires.close()
    return [each.cpu().tolist() for each in sums]

assert results(on_spheres("3", work)) == [[[3, 6, 9, 12, 15], [6, 9, 12, 15, 18]]] * 3
there = torch.arange(3, dtype=torch.int32).to("far")
by_host(lambda tensor: tensor.add_(7) if tensor.device.type == "cpu" else None, there)
assert there.device.type == "far" and there.cpu().tolist() == [7, 8, 9]
print("well")
os._exit(0)
"""


def test_buckets_of_another_device_cross_to_gloo_by_a_copy_and_come_back() -> None:
    """On a device from which torch can do nothing but copy: the own sums never reach gloo, the sums lie where the
    buckets lay, and between two groups on GPUs the one of gloo's works on a copy."""
    run = subprocess.run([sys.executable, "-u", "-c", FAR], capture_output=True, text=True, timeout=50)
    assert run.stdout == "well\n", run.stderr
