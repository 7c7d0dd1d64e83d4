"""Two hosts on one machine: network namespaces joined by a link of a given rate each way, gone when they are left.

Behind the rate limiter an interface counts a header of 66 bytes with each packet (Ethernet 14, IPv4 20, TCP with
time stamps 32), whether a packet is one segment or many that travel as one; without it bytes are payload.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .processes import Cannot

PREFIX = "lwbench"
LINK = "link0"
RATE = "200mbit"
HEADER_BYTES = 66


@dataclass(frozen=True)
class Host:
    """name: of its namespace. address: where the other one reaches it, over LINK."""

    name: str
    address: str

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `words` on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def sent_bytes(self) -> int:
        """Payload sent over the link since it was made."""
        found = json.loads(_ran("ip", "-n", self.name, "-s", "-j", "link", "show", "dev", LINK))
        sent = found[0]["stats64"]["tx"]
        return int(sent["bytes"]) - HEADER_BYTES * int(sent["packets"])


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make them and their link; take both away whatever happens. Raises Cannot where that can't be done."""
    refuse_impossible()
    _sweep()
    hosts = (Host(f"{PREFIX}-{os.getpid()}-a", "10.77.0.1"), Host(f"{PREFIX}-{os.getpid()}-b", "10.77.0.2"))
    try:
        for host in hosts:
            _ran("ip", "netns", "add", host.name)
        _ran("ip", "link", "add", LINK, "netns", hosts[0].name, "type", "veth", "peer", LINK, "netns", hosts[1].name)
        for host in hosts:
            _ran("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", LINK)
            _ran("ip", "-n", host.name, "link", "set", "lo", "up")
            _ran("ip", "-n", host.name, "link", "set", LINK, "up")
            limit = ["tbf", "rate", RATE, "burst", "128kb", "latency", "100ms"]
            _ran("tc", "-n", host.name, "qdisc", "add", "dev", LINK, "root", *limit)
        yield hosts
    finally:
        for host in hosts:
            _remove(host.name)


def refuse_impossible() -> None:
    """Raise Cannot, with what is missing, where there can be no namespaces."""
    if not sys.platform.startswith("linux"):
        raise Cannot("network namespaces are Linux's")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise Cannot(f"there is no `{tool}` here: install iproute2")
    if os.geteuid() != 0:
        raise Cannot("network namespaces take root, and this is not root")


def _sweep() -> None:
    """Remove what a bench that was killed has left: namespaces of processes that are no more."""
    for line in _ran("ip", "netns", "list").splitlines():
        name = line.split()[0]
        prefix, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if prefix == PREFIX and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _remove(name)


def _remove(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Cannot(f"`{' '.join(command)}` failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout
