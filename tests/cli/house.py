"""A template whose workers run a few lines of their own, and supervisors of them. No torch here."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from spheres import handover
from tests.cli.commands import ROOT, environment, is_gone, wait_until

TEMPLATE = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from spheres import handover
from spheres.template import Template

def work(request, pulse):
    path, former, local_rank = request["path"], request["former"], request["local_rank"]
    lives = Path({folder!r}, "lives")
    with lives.open("a") as file:
        file.write(f"{{os.getpid()}} {{former}}\\n")
    life = len(lives.read_text().splitlines())
    print("hello from", path)
    print("aside from", path, file=sys.stderr)
    {body}

sys.exit(Template(handover.listen({name!r}), Path({folder!r}), work).serve())
"""


class House:
    """A template whose workers run `body`, and supervisors; `close` ends what is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = handover.new_name()
        self.template: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "config.toml").write_text("[control]\nsilence_s = 0.2\n")

    def work(self, body: str) -> House:
        """Begin a template; a former one of this house is dead."""
        body = body.replace("\n", "\n    ")
        text = TEMPLATE.format(root=str(ROOT), body=body, name=self.name, folder=str(self.folder))
        self.template = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, start_new_session=True)
        self._started.append(self.template)
        return self

    def supervise(self, path: str = "0", *more: str) -> subprocess.Popen[bytes]:
        words = ["--dir", str(self.folder), "--control", "tcp://127.0.0.1:9", "--path", path, "--template", self.name]
        process = subprocess.Popen(
            [sys.executable, "-m", "spheres", *words, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=environment(),
        )
        self._started.append(process)
        return process

    def lives(self) -> list[tuple[int, int]]:
        """Of all workers so far: own process id, and that of the former."""
        lines = (self.folder / "lives").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def close(self) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if (self.folder / "lives").exists():
            for pid, _ in self.lives():
                wait_until(partial(is_gone, pid), f"the end of worker {pid}", limit_s=5)


def items(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Everything that the supervisor still reports, until it ends."""
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout.read().splitlines()]


def next_item(process: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    """Read the supervisor's lines until one is of this kind."""
    assert process.stdout is not None
    while kind not in (item := json.loads(process.stdout.readline())):
        pass
    assert isinstance(item, dict)
    return item
