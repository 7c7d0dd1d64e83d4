"""A run on a tree, with real processes: orders, signals, deaths, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.record import read_record
from lightwatch.cli.folder import read_json
from lightwatch.cli.rows import read_rows
from tests.cli.commands import lightwatch, processes_of, start, summary_of, tiny_project, wait_until
from tests.cli.runs import ended, running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

Process = subprocess.Popen[str]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """The launcher of an endless run that has made its first steps."""
    with running(tmp_path) as found:
        yield found


def test_a_tree_gives_the_digest_of_one_process(tmp_path: Path) -> None:
    """And with --json one line on stdout; the folder holds everything."""
    flags = tiny_project(tmp_path)
    alone = lightwatch("train", *flags, "--tree", "1", "--out", "alone", "--json", folder=tmp_path)
    tree = lightwatch("train", *flags, "--tree", "a:2,b:1", "--out", "out", "--json", folder=tmp_path, timeout_s=120)
    assert tree.returncode == 0, tree.stderr
    found, expected = json.loads(tree.stdout), json.loads(alone.stdout)
    assert found["digest"] == expected["digest"] and found["status"] == "completed"
    assert (found["eval_loss"], found["loss"]) == (expected["eval_loss"], expected["loss"])
    assert found["spheres"] == 3 and [level["level"] for level in found["traffic"]] == [0, 1]
    assert all(level["up"] > 0 for level in found["traffic"])
    assert sorted(found["seconds_per_sphere"]) == sorted(found["throughput_per_sphere"]) == ["a/0", "a/1", "b/0"]
    assert not any(line.startswith("{") for line in tree.stderr.splitlines())
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    logs = {"logs/a/0.log", "logs/a/1.log", "logs/b/0.log", "logs/control.log", "logs/host.log"}
    assert files == logs | {
        *(f"spheres/{path}/versions.jsonl" for path in ("a/0", "a/1", "b/0")),
        "config.toml",
        "control.json",
        "ledger.db",
        "metrics.jsonl",
        "model.safetensors",
        "sample.txt",
        "summary.json",
        "v0.safetensors",
    }
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "alone/model.safetensors").read_bytes()
    assert processes_of(tmp_path) == []


def test_orders_hold_and_free_the_run_and_end_it_whole(process: Process, tmp_path: Path) -> None:
    """Paused means that no version is made; a stop keeps the model, and the exit code is 0."""
    needless = lightwatch("resume", "out", folder=tmp_path)
    assert (needless.returncode, needless.stdout) == (0, "goes on\n")
    paused = lightwatch("pause", "out", folder=tmp_path)
    assert paused.returncode == 0 and "paused at version" in paused.stdout, paused.stderr
    version = int(paused.stdout.split()[-1])
    shown = lightwatch("status", "out", folder=tmp_path).stdout
    assert f"paused, version {version}/" in shown and "  0 " in shown and "  1 " in shown
    assert read_rows(tmp_path / "out" / "metrics.jsonl")[-1]["version"] == version
    resumed = lightwatch("resume", "out", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    wait_until(lambda: read_rows(tmp_path / "out" / "metrics.jsonl")[-1]["version"] > version, "the next version")
    address = (read_json(tmp_path / "out" / "control.json") or {})["address"]
    stopped = lightwatch("stop", "--control", address, folder=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    code, _, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped") and summary["version"] > version
    assert (tmp_path / "out" / "model.safetensors").exists()
    late = lightwatch("pause", "out", folder=tmp_path)
    assert late.returncode == 1 and "the run has ended: stopped" in late.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_in_order(number: signal.Signals, code: int, process: Process, tmp_path: Path) -> None:
    process.send_signal(number)
    found, _, summary = ended(process, tmp_path)
    assert (found, summary["status"]) == (code, "stopped")


def test_a_second_signal_ends_everything_at_once(process: Process, tmp_path: Path) -> None:
    """Nobody is asked: all processes are gone, and the summary says that it failed."""
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, err, summary = ended(process, tmp_path, limit_s=10)
    assert (code, summary["status"]) == (130, "failed") and "second signal" in summary["reason"]
    assert summary["reason"] in err and summary["codes"] == ["LW514"]


def test_a_script_runs_on_the_tree_and_the_first_spheres_prints_are_shown(tmp_path: Path) -> None:
    """Once, though every sphere printed; the digest is that of the script alone."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom lightwatch import Trainer, TrainingConfig\n"
        "class Points(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n        return 64\n"
        "    def __getitem__(self, n):\n        return torch.tensor([float(n), 1.0]) / 64, torch.tensor(n % 2)\n"
        "import sys\nprint(sys.argv[1:])\n"
        "trainer = Trainer(torch.nn.Linear(2, 2), Points(), TrainingConfig(max_steps=3, micro_batches=3))\n"
        "print('digest:', trainer.train().step, trainer.digest())\n"
    )
    results = [
        lightwatch("run", "--tree", tree, "--out", tree, "mine.py", "--tree", "x", folder=tmp_path, timeout_s=120)
        for tree in ("1", "2")
    ]
    assert [result.returncode for result in results] == [0, 0], results
    shown = [[line for line in result.stdout.splitlines() if "digest:" in line] for result in results]
    assert len(shown[0]) == 1 and shown[0] == shown[1]
    assert ["['--tree', 'x']" in result.stdout for result in results] == [True, True]
    assert "digest:" in (tmp_path / "2" / "logs" / "1.log").read_text()


def test_a_forward_that_fails_on_one_sphere_is_named(tmp_path: Path) -> None:
    """The user's own line is in the sentence; the traceback is in that sphere's log."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom lightwatch import Trainer, TrainingConfig, sync\n"
        "class Fragile(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if sync.current is not None and sync.current.rank == 1:\n"
        "            raise RuntimeError('no good')\n"
        "        return super().forward(x)\n"
        "class Points(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n        return 64\n"
        "    def __getitem__(self, n):\n        return torch.tensor([float(n), 1.0]) / 64, torch.tensor(n % 2)\n"
        "Trainer(Fragile(2, 2), Points(), TrainingConfig(max_steps=3, micro_batches=2)).train()\n"
    )
    result = lightwatch("run", "--tree", "2", "--out", "out", "mine.py", folder=tmp_path, timeout_s=60)
    assert result.returncode == 1, result.stderr
    assert "no good" in result.stderr and "sphere 1" in result.stderr and "Traceback" not in result.stderr
    assert "Traceback" in (tmp_path / "out" / "logs" / "1.log").read_text()
    assert processes_of(tmp_path) == []


def test_status_at_a_silent_address_gives_up_within_its_time(tmp_path: Path) -> None:
    """About 5 s, one sentence, exit code 1; what is no address is refused at once."""
    silent = lightwatch("status", "--control", "tcp://127.0.0.1:9", folder=tmp_path, timeout_s=15)
    assert silent.returncode == 1 and "did not answer within 5 s" in silent.stderr
    assert lightwatch("status", "--control", "nonsense", folder=tmp_path).returncode == 2


SLOW_SCRIPT = """
import os, time, torch
from lightwatch import Trainer, TrainingConfig

try:
    os.close(os.open("slow", os.O_CREAT | os.O_EXCL))
    os.symlink(str(os.getpid()), "slow.pid")
    mine_s = 0.05
except FileExistsError:
    mine_s = 0.0

class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, n):
        time.sleep(mine_s)
        return torch.tensor([float(n), 1.0]) / 8, torch.tensor(n % 2)

Trainer(torch.nn.Linear(2, 2), Points(), TrainingConfig(max_steps=25, micro_batches=2, batch_size=1)).train()
"""


def test_a_sphere_whose_data_comes_50_ms_late_is_named(tmp_path: Path) -> None:
    """Whichever it is: the others' waiting is booked to it, and its own seconds say what they went to.

    Not for long: once its pace is known it is dealt less.
    """
    (tmp_path / "mine.py").write_text(SLOW_SCRIPT)
    result = lightwatch("run", "--tree", "2", "--out", "out", "--json", "mine.py", folder=tmp_path, timeout_s=100)
    assert result.returncode == 0, result.stderr
    summary = summary_of(tmp_path / "out")
    spheres = read_record(tmp_path / "out" / "ledger.db").spheres
    pid = int((tmp_path / "slow.pid").readlink().name)
    (late,) = [path for path, about in spheres.items() if about["pid"] == pid]
    (other,) = [path for path in spheres if path != late]
    assert next(iter(summary["waited_for"])) == late
    seconds = summary["seconds_per_sphere"]
    assert seconds[late]["data"] > max(2 * 0.05, seconds[other]["data"])
    assert summary["waited_for"][late] == pytest.approx(seconds[other]["wait"], rel=0.2)


FAR_SCRIPT = """
import time
import torch
from torch import nn
from lightwatch import Trainer, TrainingConfig
from spheres.groups import Groups

send = Groups.send


def far(groups, plan, rank, tensor):
    if groups.me.path == "b/1" and rank == 0:
        time.sleep(0.05)
    send(groups, plan, rank, tensor)


Groups.send = far
pairs = [(torch.randn(4, generator=torch.Generator().manual_seed(n)), torch.tensor(n % 3)) for n in range(40)]
torch.manual_seed(0)
config = TrainingConfig(max_steps=400, micro_batches=4, batch_size=2, seed=1)
Trainer(nn.Linear(4, 3), pairs, config).train()
"""


def test_a_link_50_ms_long_is_named(tmp_path: Path) -> None:
    """Planted on the way up from one sphere: in `status` while it runs, and in the summary; nobody is called slow."""
    (tmp_path / "mine.py").write_text(FAR_SCRIPT)
    process = start("run", "--tree", "a:1,b:2", "--out", "out", "--json", "mine.py", folder=tmp_path)
    wait_until(lambda: len(read_rows(tmp_path / "out" / "metrics.jsonl")) >= 20, "twenty versions", limit_s=60)
    shown = lightwatch("status", "out", folder=tmp_path).stdout
    assert lightwatch("stop", "out", folder=tmp_path).returncode == 0
    code, err, summary = ended(process, tmp_path)
    assert code == 0, err
    (line,) = [line for line in shown.splitlines() if "link" in line]
    assert "link b/0 – b/1: round trip 5" in line
    links = summary["links"]
    assert set(links) == {"a – b", "b/0 – b/1"} and links["b/0 – b/1"] >= 0.05 > 2 * links["a – b"]
    assert "link b/0 – b/1" in err and summary["slowest"] is None
