"""Clients, the real process and checkpoints: ordered, sealed, answered; and what a control that dies leaves of them."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest

from control.client import ControlClient
from control.crash import VARIABLE
from control.errors import OrderRefused
from control.process import ControlProcess
from control.protocol import Go, Part, Position, SaveOver, SaveState, Saving, Seal, Stored, View, Welcome
from control.record import read_record
from tests.control.fakes import FakeSphere, Spheres, background, begun, until

pytestmark = pytest.mark.cluster


def saving(sphere: FakeSphere, state: SaveState, version: int = 2, **fields: object) -> None:
    """One of two writers speaks, whose ids are 1 and 2."""
    part = Part(name=f"part-{sphere.path}", bytes=10, sha256="h")
    values = {"folder": "best", "writers": [1, 2], "saves": 1, "part": part, **fields}
    sphere.say(Saving(generation=sphere.generation, lineage=0, version=version, state=state, **values))  # type: ignore[arg-type]


def ordered(pair: list[FakeSphere]) -> None:
    """The order has come to all, and is in force at version 2."""
    for sphere in pair:
        sphere.wait(lambda sphere: len(sphere.orders) == 1)
        assert (sphere.orders[0].saves, sphere.orders[0].save_as) == (1, "best")
        sphere.row(1)
    for sphere in pair:
        sphere.row(2, in_force=1)
    for sphere in pair:
        saving(sphere, SaveState.WRITTEN)


def test_a_client_hears_of_its_checkpoint_once_it_is_in_the_ledger(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """The folder's name, and the record beside the writer has it already."""
    pair = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        with pytest.raises(OrderRefused, match="letters, digits"):
            client.checkpoint("step-3")
        thread, results = background(lambda: client.checkpoint("best"))
        ordered(pair)
        seal = pair[0].expect(Seal)
        assert [part.name for part in seal.parts] == ["part-0", "part-1"]
        assert not results, "it is in force, but not on the disk"
        saving(pair[0], SaveState.SEALED, digest="d2", manifest_sha256="m")
        thread.join(5.0)
        assert results == ["best"]
        assert client.status().checkpoint == "best" and client.status().checkpoint_version == 2
        assert client.checkpoint("next", wait=False) is None
    (kept,) = read_record(tmp_path / "ledger.db").checkpoints
    assert (kept.folder, kept.version, kept.digest, kept.bytes) == ("best", 2, "d2", 20)
    assert all(sphere.expect(SaveOver).kept for sphere in pair)


def test_a_client_hears_why_its_checkpoint_failed(control: ControlProcess, spheres: Spheres) -> None:
    """And the alarm tells everybody."""
    pair = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        thread, results = background(lambda: client.checkpoint("best"))
        ordered(pair)
        saving(pair[1], SaveState.FAILED, why="the disk is full [LW601]")
        thread.join(5.0)
        assert isinstance(results[0], OrderRefused) and "the disk is full" in str(results[0])
        assert client.status().alarm.endswith("[LW608]")


def test_a_client_hears_from_where_its_restore_goes_on(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """The metrics tell of nothing above that."""
    pair = begun(spheres, "0", "1")
    for version in (1, 2, 3):
        for sphere in pair:
            sphere.row(version)
    until(lambda: (tmp_path / "metrics.jsonl").exists() and len(lines(tmp_path)) == 3)
    with ControlClient(control.address) as client:
        thread, results = background(lambda: client.restore("best"))
        for sphere in pair:
            assert sphere.expect(View).restoring == "best"
            sphere.ready_now("d3", 3, stored=[Stored(name="best", lineage=0, version=1, digest="d1")])
        gos = [sphere.expect(Go) for sphere in pair]
        thread.join(5.0)
        assert results == [1] and len(lines(tmp_path)) == 1
        assert {(go.position, go.how.value) for go in gos} == {(Position(lineage=1, version=1), "load")}
        for sphere in pair:
            sphere.beat(version=1)
            sphere.row(2, check=99, lineage=1)
        until(lambda: client.status().version == 2)
        thread, results = background(lambda: client.restore("nowhere"))
        for sphere in pair:
            assert sphere.expect(View).restoring == "nowhere"
            position = Position(lineage=1, version=2)
            sphere.say(msgspec.structs.replace(sphere.held("d2"), position=position))
        thread.join(5.0)
        assert isinstance(results[0], OrderRefused) and results[0].code == "LW606"


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("point", ["control.before_seal", "control.checkpoint_saved"])
def test_a_control_that_dies_over_a_save_goes_on_with_it(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writers say again how far they had come: it is sealed, or kept, all the same, and in the ledger once."""
    monkeypatch.setenv(VARIABLE, point)
    with ControlProcess(tmp_path, run_id="run", tree="2", silence_s=2.0) as control:
        pair = [FakeSphere(control.address, path) for path in ("0", "1")]
        try:
            begun(lambda *paths: pair, "0", "1")
            with ControlClient(control.address) as client:
                client.checkpoint("best", wait=False)
                ordered(pair)
                state: SaveState = SaveState.WRITTEN
                told: dict[str, object] = {}
                if point == "control.checkpoint_saved":
                    pair[0].expect(Seal)
                    state, told = SaveState.SEALED, {"digest": "d2", "manifest_sha256": "m"}
                    saving(pair[0], state, 2, **told)
                assert control.wait(5.0) == -signal.SIGKILL
            control.begin_again()
            for sphere, number in zip(pair, (1, 2), strict=True):
                sphere.hello(sphere=number)
                sphere.expect(Welcome)
                sphere.beat(version=2, seen=1, in_force=1)
            saving(pair[1], SaveState.WRITTEN)
            saving(pair[0], state, 2, **told)
            if point == "control.before_seal":
                pair[0].expect(Seal)
                saving(pair[0], SaveState.SEALED, digest="d2", manifest_sha256="m")
            assert all(sphere.expect(SaveOver).kept for sphere in pair)
        finally:
            for sphere in pair:
                sphere.leave()
    assert [each.folder for each in read_record(tmp_path / "ledger.db").checkpoints] == ["best"]
