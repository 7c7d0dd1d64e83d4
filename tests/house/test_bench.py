"""scripts/bench: its figures are medians of pairs, its sides take turns, and what can't be measured is said."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightwatch import GPTConfig
from scripts.benchmarks import gpu, hosts, loops, saves
from scripts.benchmarks.checkpoint import Run as SavingRun
from scripts.benchmarks.checkpoint import Written, figures_of
from scripts.benchmarks.figures import Figure, NotRun, paired, table
from scripts.benchmarks.processes import Cannot, module
from scripts.benchmarks.turns import alternate
from scripts.benchmarks.work import LEFT_OUT, Run, read_run, rows, step_figure
from tests.house.source import ROOT

SIDE = """
import sys
from scripts.benchmarks.turns import Turns
turns = Turns()
print("a library's chatter")
turns.begin()
while True:
    with open("order.txt", "a") as order:
        order.write(sys.argv[1])
    turns.step_end()
"""


def bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *arguments]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=100)


def run_of(ms: float, loss: float = 2.0) -> Run:
    return Run((ms / 1e3,), loss, tries=1)


# ------------------------------------------------------------ figures


def test_a_figure_is_the_median_of_its_runs_with_the_least_and_the_greatest() -> None:
    """For odd and even numbers of runs, as numpy has it."""
    random = np.random.default_rng(0)
    for count in (1, 4, 5, 8):
        runs = random.normal(size=count)
        figure = Figure(1, "x", "s", tuple(runs.tolist()))
        assert figure.value == pytest.approx(np.median(runs))
        assert figure.spread == pytest.approx((runs.min(), runs.max()))


def test_noise_that_hits_both_sides_of_a_pair_does_not_reach_the_figure() -> None:
    """A machine that is slower by whatever factor from pair to pair leaves the ratio where it is."""
    random = np.random.default_rng(1)
    slow = random.uniform(1, 10, size=31)
    assert paired(list(1.1 * slow), list(slow)) == pytest.approx(1.1)
    assert paired(list(slow + 60), list(slow), "difference") == pytest.approx(60)
    ours, peer = random.uniform(1, 2, size=30), random.uniform(1, 2, size=30)
    assert paired(list(ours), list(peer)) == pytest.approx(np.median(ours / peer))


@pytest.mark.parametrize(("runs", "met"), [((0.9, 1.03, 2.0), True), ((1.0, 1.04, 1.05), False)])
def test_a_bar_holds_for_the_median_alone(runs: tuple[float, ...], met: bool) -> None:
    """One bad run doesn't break it, one good one doesn't save it; a figure without a bar has no verdict."""
    assert Figure(2, "x", "times", runs, bar=1.03).met is met
    assert Figure(2, "x", "times", runs).met is None


def test_a_bar_may_be_the_least_that_a_figure_is_allowed() -> None:
    """A rate has one: what is above it is well, and the table shows which way it points."""
    assert Figure(5, "x", "%", (70.0,), bar=70, least=True).met is True
    assert Figure(5, "x", "%", (69.9,), bar=70, least=True).met is False
    assert ">= 70  NO" in table([Figure(5, "x", "%", (12.0,), bar=70, least=True)], [])


def test_the_table_shows_every_figure_and_every_row_that_was_not_run() -> None:
    """In the order of rows, with what stands beside the bar; nothing is left out in silence."""
    figures = [
        Figure(7, "help", "s", (0.05,), bar=0.3),
        Figure(2, "sums", "times", (1.1, 1.2, 1.3), bar=1.03, ours=8.0),
    ]
    lines = table(figures, [NotRun(4, "this is not root")]).splitlines()
    assert [line.split()[0] for line in lines] == ["row", "2", "7", "4"]
    assert "1.200 times" in lines[1] and "1.100 to 1.300" in lines[1] and lines[1].endswith("NO")
    assert lines[2].endswith("yes")
    assert lines[3].endswith("not run: this is not root")


# ------------------------------------------------------------ what the sides say


def test_a_run_is_read_without_its_first_steps_and_a_half_written_line(tmp_path: Path) -> None:
    """Seconds are the first rank's, the loss is the mean over ranks, repeated steps are counted."""
    for rank in range(2):
        made = [{"version": v, "step_s": v + rank / 2, "loss": rank, "attempts": 2} for v in range(1, LEFT_OUT + 4)]
        text = "".join(json.dumps(row) + "\n" for row in made)
        (tmp_path / f"{rank}").write_text(text + '{"version": 99')
    run = read_run([tmp_path / "0", tmp_path / "1"])
    assert run.seconds == (LEFT_OUT + 1, LEFT_OUT + 2, LEFT_OUT + 3)
    assert (run.loss, run.tries) == (0.5, 6)
    assert rows(tmp_path / "none") == []
    with pytest.raises(Cannot, match="0 steps only"):
        read_run([tmp_path / "none"])


def test_step_times_are_compared_only_if_the_work_was_the_same() -> None:
    """Ratios run by run; a side that came to another loss did something else."""
    figure = step_figure(3, "x", [run_of(110), run_of(300)], [run_of(100), run_of(200)], bar=1.05)
    assert figure.runs == pytest.approx((1.1, 1.5))
    assert [figure.ours, figure.peer] == pytest.approx([205, 150])
    assert figure.met is False
    with pytest.raises(Cannot, match="the same loss"):
        step_figure(3, "x", [run_of(110)], [run_of(100, loss=2.5)], bar=1.05)


def test_two_sides_take_turns_and_only_asked_for_steps_are_made(tmp_path: Path) -> None:
    """After a warm-up of each: so many steps of the first, as many of the second, and again."""
    (tmp_path / "side.py").write_text(SIDE)
    commands = [[sys.executable, str(tmp_path / "side.py"), name] for name in "ab"]
    found = alternate(commands, tmp_path, turns=2, steps=3, warm_up=1)
    assert [[len(turn) for turn in side] for side in found] == [[3, 3], [3, 3]]
    assert all(seconds > 0 for side in found for turn in side for seconds in turn)
    made = (tmp_path / "order.txt").read_text()
    assert made == "ab" + "aaabbb" * 2


def test_a_side_that_ends_early_is_a_sentence(tmp_path: Path) -> None:
    """Its last words, not a traceback of ours."""
    command = [sys.executable, "-c", "raise SystemExit('out of luck')"]
    with pytest.raises(Cannot, match="out of luck"):
        alternate([command], tmp_path, turns=1, steps=1, warm_up=1)


# ------------------------------------------------------------ saves


def test_a_pause_is_counted_beyond_one_copy_and_a_rate_against_the_same_bytes() -> None:
    """Turn by turn, so a machine that is slow for one turn is slow for both sides of it; seconds in, percent out."""
    random = np.random.default_rng(2)
    plain = random.uniform(0.5, 5.0, size=9)
    save, dcp, copy = plain * 1.04 + 0.01, plain + 0.03, np.full(9, 0.01)
    seconds = random.uniform(0.1, 1.0, size=7)
    written = Written(10**8, tuple(2 * seconds), tuple(seconds), tuple(seconds))
    run = SavingRun(tuple(save), tuple(plain), tuple(dcp), tuple(copy), small=written, large=written)
    figures = {figure.name: figure for figure in figures_of([run, run])}
    beyond, rate = figures["pause of a save beyond one copy"], figures["write rate, 100 MB"]
    assert beyond.runs == pytest.approx((4.0, 4.0))
    assert rate.runs == pytest.approx((50.0, 50.0))
    assert (beyond.met, rate.met) == (True, False)
    assert beyond.ours == pytest.approx(1e3 * np.median(save - plain))
    assert figures["for comparison: pause of DCP async_save"].value == pytest.approx(30.0)
    assert [name for name, figure in figures.items() if figure.met is not None] == [beyond.name, rate.name]


def test_the_seconds_of_dd_are_those_that_it_tells() -> None:
    """Of its last line; starting the program is not in them."""
    told = "64+0 records in\n64+0 records out\n67108864 bytes (67 MB, 64 MiB) copied, 0.195242 s, 344 MB/s\n"
    assert saves.seconds_told(told) == 0.195242


def test_all_tensors_of_a_state_are_found_however_deep() -> None:
    """The copy that a pause is held against is one of the whole state."""
    weight = torch.zeros(2)
    state = {"model": {"w": weight}, "optimizer": {"state": {0: {"m": [weight, (weight, 1)]}}, "groups": [{"lr": 0.1}]}}
    assert len(list(saves.tensors_in(state))) == 3


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_training_that_saves_times_steps_of_each_kind_by_turns(tmp_path: Path) -> None:
    """As many of each as were asked for, after a warm-up; each save was written, and so were the other ways' files."""
    training = saves.training_of(GPTConfig(layers=1, heads=2, width=32), tmp_path, micro_batches=1)
    told = saves.take_turns(training, tmp_path, 2)
    assert {kind: len(seconds) for kind, seconds in told["steps"].items()} == {"save": 2, "plain": 2, "dcp": 2}
    assert {len(seconds) for seconds in told["copies"].values()} == {2}
    assert len(list((tmp_path / "ours").iterdir())) == 3
    written = saves.write_by_turns(training, tmp_path / "ours", 1)
    assert written["bytes"] > sum(4 * each.numel() for each in training.model.parameters())
    assert {name: len(seconds) for name, seconds in written["seconds"].items()} == dict.fromkeys(
        ("blocking", "torch_save", "dd"), 1
    )


# ------------------------------------------------------------ two hosts


def test_without_its_tools_a_row_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, or no iproute2: one sentence each, before anything is made."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "tc" else f"/sbin/{name}")
    with pytest.raises(Cannot, match="no `tc` here: install iproute2"):
        hosts.refuse_impossible()
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Cannot, match="not root"):
        hosts.refuse_impossible()


@pytest.mark.cluster
def test_the_link_counts_payload_and_nothing_is_left_of_the_hosts() -> None:
    """What a program sends is what is counted, headers aside; an error inside takes both hosts away all the same."""
    size = 4_000_000
    serve = "import socket,sys; s=socket.create_server((sys.argv[1],7000)); print(flush=True); c=s.accept()[0]\n"
    send = f"import socket,sys; s=socket.create_connection((sys.argv[1],7000)); s.sendall(bytes({size}))"
    names: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            first, second = stack.enter_context(hosts.two_hosts())
        except Cannot as reason:
            pytest.skip(str(reason))
        names += [first.name, second.name]
        receive = first.command([sys.executable, "-c", serve + "while c.recv(65536): pass", first.address])
        with subprocess.Popen(receive, stdout=subprocess.PIPE) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()
            before = second.sent_bytes()
            subprocess.run(second.command([sys.executable, "-c", send, first.address]), check=True)
            assert receiver.wait(30) == 0
            assert second.sent_bytes() - before == pytest.approx(size, rel=0.002)
    with contextlib.suppress(ZeroDivisionError), hosts.two_hosts() as inner:
        names += [host.name for host in inner]
        raise ZeroDivisionError
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not [name for name in names if name in there]


# ------------------------------------------------------------ the command


def test_help_says_what_each_row_is_and_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """One sentence with the rows that there are; exit code 2, and nothing is written."""
    shown = bench("--help", folder=tmp_path)
    assert shown.returncode == 0
    assert all(f"\n  {row}  " in shown.stdout for row in (1, 2, 3, 4, 5, 6, 7, 8, 9))
    refused = bench("1", "99", folder=tmp_path)
    assert refused.returncode == 2
    assert "there is no row '99' to measure; there are 1, 2, 3, 4, 5, 6, 7, 8, 9" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_short_run_of_row_1_writes_figures_with_their_machine(tmp_path: Path) -> None:
    """Both sides really train; what is written can be judged by somebody who was not there."""
    done = bench("1", "--runs", "1", "--steps", "2", "--out", "out.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "For a look only" in done.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    facts = {"cpu", "cores", "memory_gb", "kernel", "python", "torch", "cpu_capability", "load", "commit", "when"}
    assert facts <= set(report["machine"])
    assert (report["runs"], report["steps"], report["enough"], report["not_run"]) == (1, 2, False, [])
    small, middle = report["figures"]
    assert (small["row"], small["unit"], small["bar"]) == (1, "µs a step", 60.0)
    assert (middle["unit"], middle["bar"]) == ("%", 1.0)
    assert small["value"] == small["runs"][0] and small["spread"] == [small["value"]] * 2
    assert small["met"] is (small["value"] <= 60.0)
    assert small["ours"] > 0 and small["peer"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_row_says_so(tmp_path: Path) -> None:
    """One sentence, at once, and exit code 1: a row was not measured."""
    done = bench("9", "--out", "out.json", folder=tmp_path)
    assert done.returncode == 1
    assert "9    not run: no GPU here" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["not_run"][0]["row"] == 9


def test_each_side_of_the_gpus_row_is_a_loop_that_there_is() -> None:
    """Which can't be seen without a GPU otherwise."""
    assert {loop for _, ours, peer, _ in gpu.PAIRS for loop in (ours, peer)} <= set(loops.LOOPS)


def test_a_module_is_run_from_this_tree_and_not_from_the_current_folder() -> None:
    """-P keeps the current folder out."""
    assert module("control", "--dir", Path("x"))[1:] == ["-P", "-m", "control", "--dir", "x"]
