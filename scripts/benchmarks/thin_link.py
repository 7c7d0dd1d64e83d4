"""Row 4: a tree of two hosts with two spheres each, over a thin link, against DDP with its four processes there.

The least that must cross the link for an uncompressed sum is the gradient once in each direction, in each step. Bytes
are those of the busier direction, from the end of step LEFT_OUT to the end of the last; a step that is tried twice
sends twice, and that counts.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from .figures import Figure
from .hosts import LINK, Host, two_hosts
from .machine import cores
from .plan import Plan
from .processes import TICK_S, Cannot, module, refuse_failed, started
from .work import LEFT_OUT, Run, config, read_run, step_figure, told, write_config

STEP_BAR = 0.75
BYTES_BAR = 1.02
TREE = "2x2"
PATIENCE_S = 1800.0

Hosts = tuple[Host, Host]


def measure(plan: Plan) -> list[Figure]:
    """The ratio of step times, and the bytes over the link against the least that is possible."""
    if cores() < 2:
        raise Cannot(f"it takes 2 cores, here is {cores()}")
    ours, peer = [], []
    with two_hosts() as hosts:
        for run in range(plan.runs):
            ours.append(_tree(plan.new_folder(f"row4-tree-{run}"), plan.steps, hosts))
            peer.append(_ddp(plan.new_folder(f"row4-ddp-{run}"), plan.steps, hosts))
            told(plan, 4, run, ours[-1], peer[-1])
    return [
        step_figure(4, "2x2 spheres, thin link, against DDP", ours, peer, STEP_BAR),
        _bytes_figure(ours, peer, plan.steps * gradient_bytes()),
    ]


def _bytes_figure(ours: Sequence[Run], peer: Sequence[Run], least: int) -> Figure:
    own = [run.link_bytes / least for run in ours]
    return Figure(
        4,
        "bytes over the link",
        "times the least",
        tuple(own),
        bar=BYTES_BAR,
        ours=_middle(own),
        peer=_middle([run.link_bytes / least for run in peer]),
        peer_name="DDP",
    )


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def gradient_bytes() -> int:
    """Of the model that is trained: 4 for each parameter."""
    from lightwatch import GPT

    return sum(4 * parameter.numel() for parameter in GPT(config(1).model).parameters())


def _tree(folder: Path, steps: int, hosts: Hosts) -> Run:
    """Control on the first host, and the spheres of both; started by hand, for the launcher knows one machine only."""
    from control.tree import parse_tree

    write_config(folder, steps)
    (folder / "logs").mkdir()
    log = folder / "tree.log"
    paths = parse_tree(TREE)
    with ExitStack() as stack:

        def start(host: Host, *words: object) -> subprocess.Popen[str]:
            return stack.enter_context(started(host.command(module(*map(str, words))), log))

        here, there = hosts
        control = start(here, "control", "--lifeline", "--dir", folder, "--run-id", "bench", "--tree", TREE)
        address = _address(folder, control, log)
        start(there, "scripts.benchmarks.forwarder", address.rpartition(":")[2], here.name)
        half = len(paths) // 2
        spheres = [
            start(host, "scripts.benchmarks.sphere_host", f"host-{number}", LINK, address, folder, *own)
            for number, (host, own) in enumerate(zip(hosts, (paths[:half], paths[half:]), strict=True))
        ]
        file = folder / "metrics.jsonl"
        return read_run([file], _link_bytes([control, *spheres], log, file, steps, hosts))


def _address(folder: Path, control: subprocess.Popen[str], log: Path) -> str:
    """Where control listens, as soon as it does."""
    while not (folder / "control.json").exists():
        refuse_failed([control], log)
        time.sleep(TICK_S)
    return str(json.loads((folder / "control.json").read_text(encoding="utf-8"))["address"])


def _ddp(folder: Path, steps: int, hosts: Hosts) -> Run:
    """DDP's ring: two ranks on each host, neighbours side by side."""
    file, log = write_config(folder, steps), folder / "ddp.log"
    world = 2 * len(hosts)
    with ExitStack() as stack:
        ranks = []
        for rank in range(world):
            command = module("scripts.benchmarks.ddp", file, rank, world, folder)
            command = hosts[rank // 2].command(["env", f"GLOO_SOCKET_IFNAME={LINK}", *command])
            ranks.append(stack.enter_context(started(command, log)))
        files = [folder / f"rows-{rank}.jsonl" for rank in range(world)]
        return read_run(files, _link_bytes(ranks, log, files[0], steps, hosts))


def _link_bytes(processes: Sequence[subprocess.Popen[str]], log: Path, rows: Path, steps: int, hosts: Hosts) -> int:
    """Wait for the end of the run; the payload that the busier direction of the link carried in the measured steps."""
    deadline = time.monotonic() + PATIENCE_S
    marks: list[tuple[int, ...]] = []
    while True:
        alive = any(process.poll() is None for process in processes)
        refuse_failed(processes, log)
        done = rows.read_bytes().count(b"\n") if rows.exists() else 0
        if len(marks) < 2 and done >= (LEFT_OUT, LEFT_OUT + steps)[len(marks)]:
            marks.append(tuple(host.sent_bytes() for host in hosts))
        if not alive:
            break
        if time.monotonic() > deadline:
            raise Cannot(f"a run had not ended after {PATIENCE_S:g} s")
        time.sleep(TICK_S)
    if len(marks) < 2:
        raise Cannot(f"a run ended after {done} steps")
    first, last = marks
    return max(after - before for before, after in zip(first, last, strict=True))
