"""What is told about a run: its status, its live view, its end by the ledger, and where a run is."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.errors import NoAnswer
from control.ledger import Ledger
from control.protocol import Closed
from control.record import FailureRecord, GenerationRecord, RunRecord
from control.status import SphereStatus, Status, Totals, Traffic, Waited
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.live import SPHERES_SHOWN, LiveView, spoken_lines
from lightwatch.cli.main import main
from lightwatch.cli.orders import refuse_unreachable, spoken_spawn
from lightwatch.cli.record import judged
from lightwatch.cli.status import spoken_alone, spoken_status
from lightwatch.cli.terminal import Terminal
from lightwatch.cli.verdict import Ended
from lightwatch.cli.where import HasEnded, Where, find, refuse_absent_control
from lightwatch.errors import ConfigError
from tests.cli.commands import wait_until


def sphere(path: str, **others: Any) -> SphereStatus:
    fields: dict[str, Any] = {"sphere": 1, "pid": 42, "host": "here", "phase": "computing", "version": 3}
    fields |= {"units_done": 1, "units_dealt": 4, "silent_s": 0.1, "rss_bytes": 300 << 20} | others
    return SphereStatus(path=path, **fields)


def status(**others: Any) -> Status:
    fields: dict[str, Any] = {"run_id": "cafe", "state": "running", "tree": "2", "generation": (1, 1), "version": 3}
    fields |= {"max_steps": 9, "loss": 2.5, "tokens_per_s": 1234.0, "eta_s": 61.0} | others
    return Status(spheres=[sphere("0"), sphere("1", silent_s=7.5)], **fields)


def record(**others: Any) -> RunRecord:
    fields: dict[str, Any] = {"run_id": "cafe", "status": "completed", "reason": "reached version 3", "usage": False}
    fields |= {"incarnation": 1, "version": 3, "digest": "d3", "versions": [], "orders": [], "closings": {}}
    fields |= {"generations": [GenerationRecord(1, 1, ["0", "1"], 0)], "failures": [], "fingerprint": {"a": "b"}}
    return RunRecord(**(fields | {"micro_batches": 8, "max_steps": 3, "spheres": {}} | others))


def closed(**others: Any) -> Closed:
    return Closed(generation=(1, 1), version=3, digest="d3", **others)


# ---------------------------------------------------------------- status


def test_a_status_has_a_line_for_the_run_and_one_for_each_sphere() -> None:
    """With what people look for: where it is, how good, how long; who is silent."""
    told = spoken_status(status()).splitlines()
    assert told[0] == "run cafe: running, version 3/9, loss 2.5000, 1,234 tokens/s, 1 min 1 s left"
    assert len(told) == 4 and "micro-batches 1/4" in told[2] and "300 MiB" in told[2]
    assert "silent for 7.5 s" in told[3] and "silent" not in told[2]


def test_a_tree_whose_control_is_not_bound_yet_is_not_taken_for_one_process(tmp_path: Path) -> None:
    """While it is started anew no address is there; that says nothing of the tree."""
    where = Where(RunFolder(tmp_path, "r"), None)
    for tree, absent in (("1", False), ("2x2", True), ("*:3", True)):
        (tmp_path / "config.toml").write_text(f'[control]\ntree = "{tree}"\n')
        with pytest.raises(NoAnswer, match=r"not there yet.*LW501") if absent else contextlib.nullcontext():
            refuse_absent_control(where)


def test_a_run_alone_is_told_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[control]\ntree = "1"\n')
    (tmp_path / "metrics.jsonl").write_text('{"version": 7, "loss": 1.5}\n')
    where = find(argparse.Namespace(dir=str(tmp_path), control=None, key=None))
    assert where.address is None and "version 7, loss 1.5000" in spoken_alone(where)
    with pytest.raises(ConfigError, match="without control"):
        refuse_unreachable(where)


def test_a_folder_or_an_address_says_which_run_is_meant(tmp_path: Path) -> None:
    """Not both; a malformed address is refused at once, a run that is over takes no orders."""
    (tmp_path / "control.json").write_text('{"address": "tcp://127.0.0.1:5555", "pid": 1}')
    where = find(argparse.Namespace(dir=str(tmp_path), control=None, key=None))
    assert (where.address, where.target) == ("tcp://127.0.0.1:5555", str(tmp_path))
    refuse_unreachable(where)
    assert find(argparse.Namespace(dir=None, control="tcp://10.0.0.1:7", key=None)) == Where(None, "tcp://10.0.0.1:7")
    with pytest.raises(ConfigError, match="not both"):
        find(argparse.Namespace(dir=str(tmp_path), control="tcp://127.0.0.1:7", key=None))
    for nonsense in ("127.0.0.1:7", "tcp://127.0.0.1", "tcp://127.0.0.1:*", ""):
        with pytest.raises(ConfigError):
            find(argparse.Namespace(dir=None, control=nonsense, key=None))
    (tmp_path / "summary.json").write_text(json.dumps({"status": "stopped", "version": 4}))
    with pytest.raises(HasEnded, match="stopped at version 4"):
        refuse_unreachable(where)


@pytest.mark.parametrize(
    ("path", "version", "tree", "phase", "said"),
    [
        ("0/1", 7, "2x2", "gone", "a sphere is let in again at 0/1 from version 7 on: the run's launcher starts it"),
        ("lab/0", 7, "*:2", "gone", "at lab/0 from version 7 on: it comes once a machine joins with --at lab"),
        ("eu/b/0", 7, "2x2", "left", "at eu/b/0 from version 7 on: it comes once a machine joins with --at eu/b"),
        ("lab", 7, "*:2", "gone", "it comes once it is started there"),
        ("0/1", None, "2x2", "computing", "nothing was ordered: a sphere is at 0/1 already"),
        ("lab/0", None, "*:2", "leaving", "nothing was ordered: a sphere is at lab/0 already"),
        ("lab/0", None, "*:2", "left", "at lab/0: a sphere comes once a machine joins with --at lab"),
        ("lab/0", None, "*:2", "gone", "at lab/0: a sphere comes once a machine joins with --at lab"),
        ("0/1", None, "2x2", "left", "`lightwatch terminate 0/1`, and then spawn, have the run's launcher start one"),
        ("0/1", None, "2x2", "gone", "for none was terminated at 0/1: the run's launcher starts one anew by itself"),
    ],
)
def test_a_spawn_says_who_starts_the_sphere(path: str, version: int | None, tree: str, phase: str, said: str) -> None:
    """Control lets it in and starts none: the launcher does at the paths of its tree, who joins does at others."""
    found = spoken_spawn(path, version, tree, phase)
    assert said in found
    assert found.startswith("a sphere is let in" if version is not None else "nothing was ordered")


# ---------------------------------------------------------------- the live view


def test_the_live_view_shows_the_newest_version_and_every_sphere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spheres come from control, asked in a thread that ends with the view."""
    asked = threading.Event()

    class Client:
        def __init__(self, address: str, timeout_s: float, key: Path | None = None) -> None:
            assert (address, key) == ("tcp://127.0.0.1:1", None)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def status(self) -> Status:
            asked.set()
            return status()

    monkeypatch.setattr("control.client.ControlClient", Client)
    monkeypatch.setattr("lightwatch.cli.live.ASK_EVERY_S", 0.01)
    view = LiveView(Terminal(), max_steps=9)
    view.opened("tcp://127.0.0.1:1")
    view.rows([{"version": 3, "loss": 2.5, "step_s": 0.1, "tokens": 100}])
    view.printed("from the [bold]script")
    wait_until(asked.is_set, "the question to control")
    view.close()
    shown = capsys.readouterr().out
    assert "step 3/9" in shown and "from the [bold]script" in shown
    assert "view" not in [thread.name for thread in threading.enumerate()]


def test_below_the_spheres_the_live_view_says_who_is_waited_for() -> None:
    """So many spheres have a line, and the others are counted; with nothing amiss there is no other line."""
    many = [sphere(str(n)) for n in range(SPHERES_SHOWN + 3)]
    found = Status(run_id="cafe", state="running", tree="27", generation=(1, 1), version=3, max_steps=9, spheres=many)
    lines = spoken_lines(found)
    assert len(lines) == SPHERES_SHOWN + 1 and lines[-1] == "and 3 more"
    late = msgspec.structs.replace(found, slowest=Waited(path="7", wait_s=0.048, share=0.2))
    assert spoken_lines(late) == [*lines, "others wait 48 ms a step for sphere 7"]


# ---------------------------------------------------------------- the end, by the ledger


def test_the_ledgers_end_is_the_runs_end() -> None:
    """Its closing has version and digest; what the spheres did is what control noted last."""
    totals = {"0": Totals(versions=3, seconds={"step": 1.5}), "1": Totals(traffic=[Traffic(level=0, up=1)])}
    notes = {"totals": msgspec.to_builtins(totals)}
    closings = {"0": closed(eval_loss=1.5), "1": closed()}
    facts = judged(record(closings=closings, notes=notes), Ended("the launcher saw something"))
    assert (facts.status, facts.version, facts.digest, facts.eval_loss) == ("completed", 3, "d3", 1.5)
    assert facts.totals == totals and facts.failures == () and facts.reason == ""
    assert facts.fingerprint == {"a": "b"} and facts.generations == 1


def test_a_run_whose_ledger_knows_no_end_has_failed() -> None:
    """Control was killed: the launcher says how."""
    facts = judged(record(status="unfinished", reason=""), Ended("control (pid 7) was ended by SIGKILL"))
    assert (facts.status, facts.version, facts.digest) == ("failed", 3, "d3")
    assert facts.reason == "control (pid 7) was ended by SIGKILL" and facts.failures == (facts.reason,)


def test_the_failure_that_ended_the_run_comes_first() -> None:
    """What only followed from it, such as closed connections, is no failure of its own."""
    failures = [
        FailureRecord("1", "failed", "no good", detail="Traceback"),
        FailureRecord("0", "lost", "its connection closed"),
        FailureRecord("2", "failed", "another"),
    ]
    facts = judged(record(status="failed", reason="sphere 1: no good", failures=failures), Ended())
    assert facts.failures == ("sphere 1: no good", "sphere 2: another")
    assert facts.detail == "Traceback" and facts.status == "failed"


@pytest.mark.parametrize("known", [True, False])
def test_a_status_without_a_summary_is_the_ledgers_end_if_it_has_one(
    known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher was killed, and control, that has ended since, may have had the time to note it."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    card = {"address": "tcp://127.0.0.1:9", "pid": gone.pid, "host": socket.gethostname()}
    (tmp_path / "control.json").write_text(json.dumps(card))
    with Ledger.open(tmp_path / "ledger.db", "cafe") as ledger:
        if known:
            ledger.end("failed", "the launcher died [LW514]")
    assert main(["status", str(tmp_path)]) == (0 if known else 1)
    out, err = capsys.readouterr()
    assert out == ("run cafe: failed at version 0\nthe launcher died [LW514]\n" if known else "")
    assert ("[LW502]" in err) != known
