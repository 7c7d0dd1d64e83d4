"""A sphere in the hands of control: roll calls, states that are fetched or loaded, sick ones, the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from control.protocol import Beat, Closed, End, Failed, How, Member, Position, Ready, Row
from lightwatch.checkpoint import load_snapshot, save_snapshot
from lightwatch.errors import RunEnded, StateError
from lightwatch.metrics import Closing, StepReport
from lightwatch.snapshot import Snapshot
from lightwatch.sync import GenerationEnded, Sick, Start, Transition
from lightwatch.sync import How as By
from lightwatch.sync import Position as Place
from lightwatch.tail import Outcome, Tail
from spheres.larder import Larder
from spheres.stock import Whole
from tests.spheres.seat import Seat, seated, standing, state_of

FIRST, SECOND, THIRD = (1, 1), (1, 2), (1, 3)


@pytest.fixture
def seat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seat]:
    with seated(tmp_path, monkeypatch, "0/0") as seats:
        yield seats[0]


class Beside:
    """A call that runs in a thread; `result` gives what it gave, or raises what it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._found: list[object] = []
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self._found.append(work())
        except Exception as error:
            self._found.append(error)

    def result(self) -> object:
        self._thread.join(20.0)
        (found,) = self._found
        if isinstance(found, Exception):
            raise found
        return found


def founded(seat: Seat, version: int = 0) -> Start:
    """The only member of generation FIRST, running."""
    beginning = Beside(lambda: seat.sync.begin(standing(version)))
    seat.call(FIRST, [seat.member])
    seat.ready(FIRST)
    seat.go(FIRST, position=Position(version=version))
    start = beginning.result()
    assert isinstance(start, Start)
    return start


def test_the_first_member_of_a_new_run_writes_v0_before_it_is_ready(seat: Seat, tmp_path: Path) -> None:
    """Whole, and the answer says that it can be read. It holds no state by control's word until a Go."""
    beginning = Beside(lambda: seat.sync.begin(standing()))
    seat.call(FIRST, [seat.member])
    ready = seat.ready(FIRST)
    assert (ready.holds_state, ready.has_v0, ready.position) == (False, True, Position())
    assert torch.equal(load_snapshot(tmp_path / "v0.safetensors").tensors["parameters.w"], torch.zeros(300))
    seat.go(FIRST)
    start = beginning.result()
    assert isinstance(start, Start) and (start.how, start.position) == (By.HERE, Place())
    again = Beside(lambda: seat.sync.begin(standing()))
    seat.call(SECOND, [seat.member])
    assert seat.ready(SECOND).holds_state
    seat.go(SECOND)
    again.result()


@pytest.mark.parametrize(("version", "rank"), [(3, 0), (0, 1)])
def test_nobody_else_writes_v0(seat: Seat, tmp_path: Path, version: int, rank: int) -> None:
    """One that is past version 0, and one that is not the first."""
    beginning = Beside(lambda: seat.sync.begin(standing(version)))
    members = [Member(sphere=99, path="0/1"), seat.member] if rank else [seat.member]
    seat.call(FIRST, members)
    assert not seat.ready(FIRST).has_v0
    assert not (tmp_path / "v0.safetensors").exists()
    seat.control.say(End(status="completed"))
    with pytest.raises(RunEnded):
        beginning.result()


def test_the_groups_are_told_which_gpu_the_trainer_computes_on(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they connect: their members say it to each other, and agree on what carries the buckets."""
    monkeypatch.setattr("spheres.sync.identity_of", lambda device: f"GPU-{device.index}")
    seat.sync.device = torch.device("cuda", 3)
    founded(seat)
    assert seat.sync._wires is not None
    groups = seat.sync._wires.groups
    assert (groups.device, groups.gpu) == (torch.device("cuda", 3), "GPU-3")


def test_a_sphere_that_is_left_out_waits_for_a_view_that_has_it(seat: Seat) -> None:
    """It drops its groups and stays frozen; it answers nothing to the View of others."""
    founded(seat)
    beginning = Beside(lambda: seat.sync.begin(standing()))
    seat.call(SECOND, [Member(sphere=99, path="0/1")])
    seat.control.until(lambda: any(isinstance(m, Beat) and m.generation == SECOND for m in seat.control.received))
    seat.call(THIRD, [seat.member])
    seat.ready(THIRD)
    assert [ready.generation for ready in seat.control.of(Ready)] == [FIRST, THIRD]
    seat.go(THIRD)
    beginning.result()


def test_what_was_missed_comes_with_go_and_what_is_held_goes_with_ready(seat: Seat) -> None:
    """The record of a tail, done sums and orders, as they are."""
    record = Transition(Place(version=4), Place(version=5), b"\x01" * 16, ("0/0", "0/1"))
    told = standing(5, done=(0, 3), has_sums=True, in_force=2, record=record)
    beginning = Beside(lambda: seat.sync.begin(told))
    seat.call(FIRST, [seat.member])
    ready = seat.ready(FIRST)
    assert (ready.position, ready.done, ready.has_sums, ready.in_force) == (Position(version=5), [0, 3], True, 2)
    assert ready.record is not None and ready.record.tail == record.tail
    seat.go(
        FIRST, How.RECORD, position=Position(version=5), record=ready.record, keep=True, in_force=1,
        in_force_at={3: 1}, known=9, digest="x",
    )  # fmt: skip
    assert beginning.result() == Start(
        Place(version=5), By.RECORD, keep=True, record=record, in_force=1, in_force_at={3: 1}, known=9, digest="x"
    )


def fetching(seat: Seat, generation: tuple[int, int], donor: Larder, how: How = How.FETCH) -> Snapshot:
    """Begin a generation in which sphere 11 takes version 5 from sphere 99."""
    peer = Member(sphere=99, path="0/1", port=donor.port)
    beginning = Beside(lambda: seat.sync.begin(standing()))
    seat.call(generation, [seat.member])
    seat.ready(generation)
    seat.go(generation, how, position=Position(version=5), donor=99)
    beginning.result()
    assert seat.sync._view is not None
    seat.sync._view.members.append(peer)  # the groups are of this sphere alone
    return seat.sync.fetch()


def test_a_state_is_fetched_from_the_donor_and_served_until_the_first_tail(seat: Seat) -> None:
    """Only then does this sphere hold a state; a donor that broke off is gone on with by the next one."""
    donor = Larder()
    try:
        with pytest.raises(GenerationEnded, match="could not fetch the state from sphere 99"):
            donor.offer((FIRST, Position(version=9)), Whole(state_of(9)))
            fetching(seat, FIRST, donor)
        seat.control.until(lambda: any(isinstance(m, Beat) and m.failed_in == FIRST for m in seat.control.received))
        donor.offer((SECOND, Position(version=5)), Whole(state_of(5)))
        found = fetching(seat, SECOND, donor)
    finally:
        donor.close()
    assert torch.equal(found.tensors["parameters.w"], torch.full((300,), 5.0))
    assert [ready.holds_state for ready in seat.control.of(Ready)] == [False, False]
    key = (SECOND, Position(version=5))
    assert seat.larder.offers(key)
    summed(seat, Place(version=5))
    assert not seat.larder.offers(key)


def summed(seat: Seat, position: Place, units: int = 2) -> Tail:
    """A step of this sphere alone, or together with others who do the same: one bucket and the tail."""
    mine = seat.sync.deal(position, units, 0)
    seat.sync.progress(position, "computing", 0, len(mine))
    seat.sync.reduce(torch.full((10,), len(mine), dtype=torch.int32))
    seat.sync.progress(position, "reducing", len(mine), len(mine))
    seat.sync.reduced()
    tail = Tail(1, 1, units, seat.sync.members)
    for unit in mine:
        tail.take(unit, seat.sync.rank, Outcome(1.0, 1, 1))
    return seat.sync.tail(tail, position)


def test_v0_is_loaded_if_it_is_the_one_that_the_run_began_with(seat: Seat, tmp_path: Path) -> None:
    """Another run's is refused, and no longer offered."""
    save_snapshot(state_of(0), tmp_path / "v0.safetensors")
    right = state_of(0).digest()
    for generation, digest in ((FIRST, right), (SECOND, "0" * 64)):
        beginning = Beside(lambda: seat.sync.begin(standing(4)))
        seat.call(generation, [seat.member])
        assert seat.ready(generation).has_v0
        seat.go(generation, How.LOAD, digest=digest)
        beginning.result()
        if digest == right:
            assert torch.equal(seat.sync.fetch().tensors["parameters.w"], torch.zeros(300))
        else:
            with pytest.raises(GenerationEnded, match="it is another run's"):
                seat.sync.fetch()
    beginning = Beside(lambda: seat.sync.begin(standing(4)))
    seat.call(THIRD, [seat.member])
    assert not seat.ready(THIRD).has_v0
    seat.go(THIRD)
    beginning.result()


def test_the_odd_one_leaves_as_sick_and_the_others_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sick there, told to control; elsewhere the generation has ended, and every beat says by whom. Who can't be
    reached is said too, soon after."""
    with seated(tmp_path, monkeypatch, "0/0", "0/1") as seats:
        members = [seat.member for seat in seats]
        beginnings = [Beside(lambda seat=seat: seat.sync.begin(standing())) for seat in seats]  # type: ignore[misc]
        for seat in seats:
            seat.call(FIRST, members)
            seat.ready(FIRST)
            seat.go(FIRST)
        for beginning in beginnings:
            beginning.result()
        with pytest.raises(Sick, match="sphere 0/1 can't trust its own memory"):
            seats[1].sync.unsound("its weights differ [LW304]", odd=1)
        seats[1].control.until(lambda: any(isinstance(m, Failed) and m.sick for m in seats[1].control.received))
        seats[1].larder.close()
        with pytest.raises(GenerationEnded, match="its weights differ"):
            seats[0].sync.unsound("its weights differ [LW304]", odd=1)
        said = seats[0].control
        said.until(lambda: any(isinstance(m, Beat) and m.unreachable for m in said.received))
        beat = next(beat for beat in said.of(Beat) if beat.unreachable)
        assert (beat.failed_in, beat.accuses, beat.unreachable) == (FIRST, 12, [12])
        assert seats[0].sync.name_of(1) == "sphere 0/1" and seats[0].sync.paths == ("0/0", "0/1")


def test_a_repetition_moves_each_index_on_and_kept_sums_outlive_their_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Go dealt, nobody computes again what it computed last. The wires of a generation are its own."""
    with seated(tmp_path, monkeypatch, "0", "1") as seats:
        members = [seat.member for seat in seats]

        def answered(seat: Seat, generation: tuple[int, int], deal: dict[int, list[int]]) -> None:
            seat.ready(generation)
            seat.go(generation, deal=deal)

        def life(seat: Seat) -> None:
            sync, dealt = seat.sync, dealt_to[seat.sphere]
            seat.call(FIRST, members)
            Beside(lambda: answered(seat, FIRST, {11: [0, 2], 12: [1]}))
            sync.begin(standing())
            for attempt in range(3):
                position = Place(attempt=attempt)
                dealt.append(list(sync.deal(position, 3, 0)))
                sync.progress(position, "computing")
                sync.reduce(torch.full((10,), len(dealt[-1]), dtype=torch.int32))
                sums = sync.reduced()
                tail = Tail(1, 1, 3, 2)
                for unit in dealt[-1]:
                    tail.take(unit, sync.rank, Outcome(1.0, 1, 1))
                sync.progress(position, "reducing")
                total = sync.tail(tail, position)
                assert total.units["taken"].tolist() == [1, 1, 1]
            seat.call(SECOND, members)
            Beside(lambda: answered(seat, SECOND, {11: [0], 12: [1, 2]}))
            sync.begin(standing())
            sync.deal(Place(), 3, 0)
            sync.reduce(torch.full((10,), 7, dtype=torch.int32))
            later = sync.reduced()
            assert later[0].tolist() == [14] * 10 and sums[0].tolist() == [3] * 10

        dealt_to: dict[int, list[list[int]]] = {11: [], 12: []}
        for each in [Beside(lambda seat=seat: life(seat)) for seat in seats]:  # type: ignore[misc]
            each.result()
    assert dealt_to == {11: [[0, 2], [1], [0, 2]], 12: [[1], [0, 2], [1]]}


def test_a_holder_stays_to_the_end_and_takes_part_until_then(seat: Seat) -> None:
    """A View after the last version: the trainer answers it, and Closed is said again; the model is written once."""
    founded(seat)
    finished: list[tuple[int, int]] = []

    def finish() -> None:
        if finished:
            seat.sync.begin(standing(4))
        else:
            seat.sync.closed(Closing(4, "d", "completed"), nn.Linear(1, 1))
        finished.append(seat.sync._generation)

    seat.sync.finish = finish
    leaving = Beside(seat.sync.leave)
    seat.control.until(lambda: any(isinstance(m, Closed) for m in seat.control.received))
    seat.call(SECOND, [seat.member])
    seat.ready(SECOND)
    seat.go(SECOND)
    seat.control.until(lambda: len([m for m in seat.control.received if isinstance(m, Closed)]) == 2)
    seat.control.say(End(status="completed"))
    leaving.result()
    assert finished == [FIRST, SECOND]
    assert [closed.generation for closed in seat.control.of(Closed)] == [FIRST, SECOND]
    assert seat.kept == ["0/0"]


def test_a_script_that_trained_nothing_is_told_so(seat: Seat) -> None:
    """Leaving is not ending well."""
    with pytest.raises(StateError, match="the script ended without training"):
        seat.sync.leave()


def test_each_version_is_noted_with_how_it_came(seat: Seat, tmp_path: Path) -> None:
    """But for the one that the run began with; control hears of all."""
    founded(seat)
    for version, how in enumerate(("here", "tail", "record", "fetch")):
        seat.sync.report(StepReport(version, how=how, own_units=2 * version, attempts=1))
    lines = (tmp_path / "spheres" / "0/0" / "versions.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["version"], line["how"], line["units"]) for line in found] == [
        (1, "tail", 2), (2, "record", 4), (3, "fetch", 6)
    ]  # fmt: skip
    assert all(line["generation"] == [1, 1] and line["pid"] and line["at"] for line in found)
    seat.control.until(lambda: len([m for m in seat.control.received if isinstance(m, Row)]) == 4)
