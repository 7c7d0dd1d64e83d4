"""A run on two hosts that can be cut from each other: network namespaces with two links, one for each purpose.

Spheres reach each other over PEERS; those of the second host reach control over LINE, through a relay, since control
listens on loopback only. Either link can be cut, both ways or one way, and nothing tells anybody: packets are lost.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.tree import parse_tree
from lightwatch.cli.chaos_records import Made, read_made
from lightwatch.cli.folder import RunFolder, read_json
from scripts.benchmarks.hosts import LINK, Host, two_hosts
from scripts.benchmarks.processes import module, started
from tests.cli.commands import wait_until

PEERS, LINE = LINK, "line0"
LINE_ADDRESSES = ("10.78.0.1", "10.78.0.2")
RUN_ID = "islands"
SILENCE_S = 1.0
PACE_S = 0.1
"""What a step takes at least, until there is a file named `hurry`: so a run lasts as long as its test needs it."""

SCRIPT = """
import os, time
from pathlib import Path
import torch
from lightwatch import GPT, GPTConfig, TextData, Trainer, TrainingConfig

here = Path(__file__).parent
config = TrainingConfig(micro_batches=6, batch_size=2, max_steps={steps}, warmup_steps=2, log_interval=1000,
                        eval_interval=0, seed=1)
torch.manual_seed(config.seed)
model = GPT(GPTConfig(layers=1, heads=2, width=16, context=16))
trainer = Trainer(model, TextData(str(here / "text.txt"), sequence_length=16), config)
trainer.on_step_end = lambda state: None if (here / "hurry").exists() else time.sleep({pace_s})
trainer.train()
(here / f"digest-{{os.getpid()}}").write_text(trainer.digest())
"""


@dataclass(frozen=True)
class Run:
    """A run that trains. hosts: control is on the first."""

    folder: Path
    paths: tuple[str, ...]
    hosts: tuple[Host, Host]
    processes: list[subprocess.Popen[str]]
    relay: subprocess.Popen[str]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    # ---------------------------------------------------------------- cuts

    def cut(self, link: str) -> None:
        """Nothing passes the link any more, either way."""
        _ip(self.hosts[1], "link", "set", link, "down")

    def mend(self, link: str) -> None:
        """What `cut` and `cut_one_way` did."""
        for host in self.hosts:
            _ip(host, "link", "set", link, "up")
            subprocess.run(["tc", "-n", host.name, "qdisc", "delete", "dev", link, "root"], capture_output=True)

    def cut_one_way(self, link: str, side: int) -> None:
        """What this host sends over the link is lost; what it is sent arrives."""
        drop = ["qdisc", "replace", "dev", link, "root", "bfifo", "limit", "1"]  # of a byte: no packet is as small
        _ran("tc", "-n", self.hosts[side].name, *drop)

    # ---------------------------------------------------------------- what is seen

    def made(self) -> list[Made]:
        return read_made(RunFolder(self.out, RUN_ID))

    def version(self) -> int:
        return max((made.version for made in self.made()), default=0)

    def last(self) -> dict[str, Made]:
        """By path: the newest version that it came to hold."""
        return {made.path: made for made in self.made()}

    def together(self, since: int) -> bool:
        """Whether all spheres have made a version after `since` in one and the same generation."""
        last = self.last()
        generations = {made.generation for made in last.values()}
        return set(last) == set(self.paths) and len(generations) == 1 and all(m.version > since for m in last.values())

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        with closing(sqlite3.connect(f"{(self.out / 'ledger.db').as_uri()}?mode=ro", uri=True)) as ledger:
            return ledger.execute(query).fetchall()

    def barred(self) -> list[str]:
        """The sentences of those left out, in order."""
        return [
            str(json.loads(text)["text"])
            for (text,) in self.read("SELECT json FROM events WHERE kind = 'SphereBarred' ORDER BY n")
        ]

    def called(self) -> list[tuple[tuple[int, int], set[str]]]:
        """The generations that were called, in order, with the paths of their members."""
        query = "SELECT incarnation, number, members FROM generations ORDER BY incarnation, number"
        return [((one, two), set(json.loads(text))) for one, two, text in self.read(query)]

    def generation(self) -> tuple[int, int]:
        """The newest that was told to go."""
        ((incarnation, number),) = self.read(
            "SELECT incarnation, number FROM generations ORDER BY incarnation DESC, number DESC LIMIT 1"
        )
        return incarnation, number


def write_script(folder: Path, steps: int) -> Path:
    """What is trained, and its text."""
    (folder / "text.txt").write_text("".join(f"line {n}: the quick brown fox, {n * n} times\n" for n in range(400)))
    file = folder / "mine.py"
    file.write_text(SCRIPT.format(steps=steps, pace_s=PACE_S))
    return file


@contextmanager
def two_host_run(folder: Path, tree: str, steps: int) -> Iterator[Run]:
    """A run whose spheres under the tree's first node are on the first host, the others on the second; once it
    trains. Raises Cannot where there can be no such hosts."""
    script, out = write_script(folder, steps), folder / "out"
    (out / "logs").mkdir(parents=True)
    (out / "config.toml").write_text(f"[control]\ntree = '{tree}'\nsilence_s = {SILENCE_S}\n")
    paths = parse_tree(tree)
    with two_hosts() as hosts, ExitStack() as stack:
        _lay_line(hosts)
        log = folder / "hosts.log"

        def start(host: Host, *words: object) -> subprocess.Popen[str]:
            return stack.enter_context(started(host.command(module(*map(str, words))), log))

        asked = ["--dir", out, "--run-id", RUN_ID, "--tree", tree, "--silence-s", SILENCE_S]
        processes = [start(hosts[0], "control", "--lifeline", *asked)]
        wait_until((out / "control.json").exists, "control")
        port = (read_json(out / "control.json") or {})["address"].rpartition(":")[2]
        relay = start(hosts[0], "tests.cli.relay", LINE_ADDRESSES[0], "127.0.0.1", port)
        addresses = (f"tcp://127.0.0.1:{port}", f"tcp://{LINE_ADDRESSES[0]}:{port}")
        first = paths[0].partition("/")[0]
        for number, (host, address) in enumerate(zip(hosts, addresses, strict=True)):
            name = f"@{host.name}"
            start(host, "tests.cli.far_template", f"host-{number}", "--dir", out, "--socket", name)
            for path in paths:
                if (path.partition("/")[0] == first) == (number == 0):
                    words = [
                        "--dir",
                        out,
                        "--control",
                        address,
                        "--path",
                        path,
                        "--template",
                        name,
                        "--interface",
                        PEERS,
                    ]
                    processes.append(start(host, "spheres", *words, "--script", script))
        run = Run(folder, paths, hosts, processes, relay)
        wait_until(lambda: run.together(2), "the first steps", limit_s=60)
        yield run


def _lay_line(hosts: tuple[Host, Host]) -> None:
    _ran("ip", "link", "add", LINE, "netns", hosts[0].name, "type", "veth", "peer", LINE, "netns", hosts[1].name)
    for host, address in zip(hosts, LINE_ADDRESSES, strict=True):
        _ip(host, "address", "add", f"{address}/24", "dev", LINE)
        _ip(host, "link", "set", LINE, "up")


def _ip(host: Host, *words: str) -> None:
    _ran("ip", "-n", host.name, *words)


def _ran(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
