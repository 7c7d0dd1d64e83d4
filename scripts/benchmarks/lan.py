"""Several hosts on one machine, on one switch: network namespaces with names, addresses and folders of their own.

Each knows the others by name (its own /etc/hosts) and has a user's configuration of its own, so what passes between
them went over the wire. The switch is a namespace too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .hosts import HEADER_BYTES, refuse_impossible
from .processes import Cannot, environment

PREFIX = "lwlan"
PORT = "lan0"
NAMES = ("north", "south", "east", "west")
GONE_S = 10.0


@dataclass(frozen=True)
class Machine:
    """name: what the others call it. space: of its namespace. home: its folder; what it runs starts there."""

    name: str
    address: str
    space: str
    home: Path

    def start(self, words: Sequence[object], log: Path, **more: str) -> subprocess.Popen[bytes]:
        """Run something here, all it says into the log, until `lan` is left at the latest. more: environment."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        command = ["ip", "netns", "exec", self.space, *named, *map(str, words)]
        own = {"XDG_CONFIG_HOME": str(self.home / "config"), "HOSTNAME": self.name, **more}
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.home,
                env={**environment(), **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """All that runs here."""
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def cut(self) -> None:
        """Nothing passes from or to this machine any more, and nobody is told."""
        _ran("ip", "-n", self.space, "link", "set", PORT, "down")

    def mend(self) -> None:
        _ran("ip", "-n", self.space, "link", "set", PORT, "up")

    def limit(self, rate: str) -> None:
        """So much a second can it send, as `tc` writes it."""
        rule = ["tbf", "rate", rate, "burst", "128kb", "latency", "100ms"]
        _ran("tc", "-n", self.space, "qdisc", "replace", "dev", PORT, "root", *rule)

    def sent_bytes(self) -> int:
        """Payload sent since the link was made: what the interface of a `limit`ed one counts, less headers."""
        import json

        found = json.loads(_ran("ip", "-n", self.space, "-s", "-j", "link", "show", "dev", PORT))
        sent = found[0]["stats64"]["tx"]
        return int(sent["bytes"]) - HEADER_BYTES * int(sent["packets"])

    def remove(self) -> None:
        """As if its plug were pulled: its link goes first, then its processes, and nobody says farewell."""
        subprocess.run(["ip", "-n", self.space, "link", "set", PORT, "down"], capture_output=True)
        deadline = time.monotonic() + GONE_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        subprocess.run(["ip", "netns", "delete", self.space], capture_output=True)
        shutil.rmtree(Path("/etc/netns") / self.space, ignore_errors=True)


@contextlib.contextmanager
def lan(folder: Path, count: int) -> Iterator[list[Machine]]:
    """Make them, and take all away whatever happens, with all that runs there. Raises Cannot where that can't be."""
    refuse_impossible()
    _sweep()
    own = f"{PREFIX}-{os.getpid()}"
    switch = f"{own}-switch"
    machines = [
        Machine(name, f"10.79.0.{number + 1}", f"{own}-{name}", folder / name)
        for number, name in enumerate(NAMES[:count])
    ]
    try:
        _ran("ip", "netns", "add", switch)
        _ran("ip", "-n", switch, "link", "add", "switch0", "type", "bridge")
        _ran("ip", "-n", switch, "link", "set", "switch0", "up")
        for number, machine in enumerate(machines):
            _plug(machine, switch, number, machines)
        yield machines
    finally:
        for machine in machines:
            machine.remove()
        subprocess.run(["ip", "netns", "delete", switch], capture_output=True)


def _sweep() -> None:
    """Remove what a process that was killed has left: its hosts, and what still runs there."""
    for line in _ran("ip", "netns", "list").splitlines():
        space = line.split()[0]
        prefix, _, rest = space.partition("-")
        pid, _, name = rest.partition("-")
        if prefix == PREFIX and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            Machine(name, "", space, Path()).remove()


def _plug(machine: Machine, switch: str, number: int, every: list[Machine]) -> None:
    (machine.home / "config").mkdir(parents=True, exist_ok=True)
    own = Path("/etc/netns") / machine.space
    own.mkdir(parents=True, exist_ok=True)
    (own / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{each.address} {each.name}\n" for each in every))
    _ran("ip", "netns", "add", machine.space)
    end = ["type", "veth", "peer", f"port{number}", "netns", switch]
    _ran("ip", "link", "add", PORT, "netns", machine.space, *end)
    _ran("ip", "-n", switch, "link", "set", f"port{number}", "master", "switch0", "up")
    _ran("ip", "-n", machine.space, "address", "add", f"{machine.address}/24", "dev", PORT)
    _ran("ip", "-n", machine.space, "link", "set", "lo", "up")
    _ran("ip", "-n", machine.space, "link", "set", PORT, "up")


def _ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Cannot(f"`{' '.join(command)}` failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout
