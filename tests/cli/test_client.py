"""Every method of the client, and README's example of it, against a tree that trains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control.client import ControlClient
from control.errors import NoAnswer, OrderRefused
from tests.cli.commands import ROOT, Command, environment, refused, start, wait_until
from tests.cli.runs import ended, pid_of, running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def test_every_method_does_what_it_says_on_a_tree_that_trains(tmp_path: Path) -> None:
    """One run for all: each order is acknowledged with a version, and what it asked for is so from then on."""
    with running(tmp_path, tree="3") as process, ControlClient(tmp_path / "out") as client:
        assert "computing" in client.tree() or "reducing" in client.tree()
        story = client.events()
        assert next(story).kind == "state"
        now = client.wait_for(version=client.status().version + 5)
        assert now.state == "running"

        paused = client.pause()
        assert client.wait_for(state="paused").version == paused
        with pytest.raises(NoAnswer, match="state running within 0.3 s; it is paused at version"):
            client.wait_for(state="running", timeout_s=0.3)
        health = client.health()
        assert health.count("waiting") == 3 and all(each.rss_bytes > 0 and each.cpu_s > 0 for each in health.spheres)
        resumed = client.resume()
        assert paused is not None and resumed is not None and resumed >= paused

        taken = client.set_learning_rate(0.002)
        assert taken is not None and taken > resumed
        dealt = client.rebalance(request="mine")
        assert dealt is not None and dealt > taken
        order = client.status().order
        assert client.rebalance(request="mine") == dealt and client.status().order == order, "it acts once"

        assert client.checkpoint("here") == "here"
        saved = client.list_checkpoints()
        assert [each.name for each in saved if each.name == "here"] == ["here"]
        back = client.restore("here")
        assert back == next(each.version for each in saved if each.name == "here")
        client.wait_for(version=back + 3)

        worker = pid_of(tmp_path, "worker", "2")
        without = client.terminate_sphere("2")
        assert without is not None and without >= 1
        assert client.wait_for(version=without + 3).state == "running"
        wait_until(lambda: pid_of(tmp_path, "supervisor", "2") == 0, "the end of its supervisor")
        assert worker and pid_of(tmp_path, "worker", "2") == 0
        assert [(each.path, each.state) for each in client.health().spheres if each.state == "lost"] == [("2", "lost")]
        with pytest.raises(OrderRefused, match="there is no sphere '7'"):
            client.terminate_sphere("7")
        again = client.spawn_sphere("2")
        assert again is not None and again >= without
        wait_until(lambda: client.health().count("lost") == 0, "sphere 2 again", 60)
        client.wait_for(version=client.status().version + 3)
        assert pid_of(tmp_path, "worker", "2") not in (0, worker)

        stats = client.stats()
        assert stats[""].spheres == 3 and stats["0"].busy_s > 0
        client.stop()
        assert [event.kind for event in story][-1] == "end"
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped"), said


def test_the_example_in_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    """Taken out of the README, with the folder of a live run of two spheres."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "ControlClient(" in block]
    with running(tmp_path, tree="2") as process:
        (tmp_path / "example.py").write_text(example)
        done = subprocess.run(
            [sys.executable, "example.py", "out"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped"), said
    lines = done.stdout.splitlines()
    assert lines[0].startswith("paused at version ") and lines[1].startswith("0 waiting ")
    assert int(lines[3].rpartition(" ")[2]) > 0 and lines[4] == f"stopped at version {summary['version']}"


def test_each_command_asks_or_orders_and_speaks_json_to_scripts(tmp_path: Path, command: Command) -> None:
    """One line on stdout that can be read, words for people otherwise; the story's last line is the end."""

    def told(*words: str) -> Any:
        done = command(*words, "--json", "out", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    with running(tmp_path, tree="3") as process:
        assert told("wait", "--version", "8")["version"] >= 8
        assert told("tree")["tree"][0] == "."
        assert told("lr", "--rate", "0.002")["version"] > 0
        assert told("rebalance")["version"] > 0
        assert told("terminate", "--path", "1")["order"] == "terminate"
        assert [each["path"] for each in told("health")["spheres"] if each["state"] == "lost"] == ["1"]
        assert told("spawn", "--path", "2")["version"] is None, "there is one"
        paused = told("pause")["version"]
        assert told("wait", "--state", "paused")["version"] == told("status")["version"] == paused
        assert told("stats")[""]["totals"]["micro_batches"] > 0
        for name, word in (("tree", "terminated"), ("health", "MiB"), ("stats", "micro-batches")):
            assert word in command(name, "out", folder=tmp_path).stdout
        assert "goes on" in command("resume", "out", folder=tmp_path).stdout
        with start("events", "out", "--json", folder=tmp_path) as events:
            assert events.stdout is not None and json.loads(events.stdout.readline())["kind"] == "state"
            assert told("stop")["version"] > paused
            lines = [json.loads(line) for line in events.stdout]
            events.wait(30)
        assert lines[-1]["kind"] == "end" and events.returncode == 0
        code, said, summary = ended(process, tmp_path)
    assert (code, summary["status"]) == (0, "stopped"), said
    refused(command("health", "out", folder=tmp_path), "has ended", "[LW511]", code=1)
