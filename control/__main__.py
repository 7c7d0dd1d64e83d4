"""`python -m control`: one run's control process.

Exit codes: 0 the run ended as it should, 1 it failed, 2 it could not be started (one sentence on stderr), 3 another
control acts for the run.
When it is bound, FOLDER/control.json says where; logs go to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from . import crash
from .config import Settings
from .connections import SILENT_MOST, SPEAKING_MOST
from .door import Door
from .errors import ControlError
from .keyfile import Pair
from .keys import Keys
from .ledger import Ledger
from .resume import resume
from .server import Server

PR_SET_PDEATHSIG = 1
DESCRIPTORS = 256
"""For all else that control has open."""


def main(arguments: list[str]) -> int:
    """Run until the run is over; returns the exit code."""
    with ExitStack() as stack:
        try:
            settings = _settings(arguments)
            crash.arm(settings.folder, "control")
            _allow_connections()
            ledger = stack.enter_context(Ledger.open(settings.folder / "ledger.db", settings.run_id))
            crash.here("control.ledger_opened")
            if settings.resume:
                resume(ledger, settings)
            ledger.set("tree", settings.tree)
            keys = Keys(settings.folder) if Keys(settings.folder).exist else None
            pair = keys.pair if keys else None
            door = stack.enter_context(closing(Door(settings.listen, settings.silence_s, pair)))
            crash.here("control.bound")
            server = Server(settings, ledger, door, keys)
            door.may_enter = server.guard.may_enter
            server.sigterm.catch()  # before anybody knows the address, and so the process
            _announce(settings, ledger, door, pair)
            crash.here("control.announced")
        except ControlError as error:
            print(f"control: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"control: {error} [LW604]", file=sys.stderr)
            return 2
        return server.run()


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m control", description="One run's control process.")
    parser.add_argument("--dir", required=True, type=Path, help="the run's folder; it exists")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--tree", default="2x2")
    parser.add_argument("--listen", default="tcp://127.0.0.1:*")
    parser.add_argument("--silence-s", type=float, default=1.0)
    parser.add_argument("--lifeline", action="store_true", help="end at once when stdin ends")
    parser.add_argument("--die-with-parent", action="store_true", help="also when stopped, and its parent dies (Linux)")
    parser.add_argument("--adopt", action="store_true", help="the ledger is lost: take over what the spheres tell")
    resume_help = "go on with the run with other processes, those of before are dead; anew: as another lineage"
    parser.add_argument("--resume", default="", choices=["", "on", "anew"], help=resume_help)
    given = parser.parse_args(arguments)
    if given.die_with_parent and sys.platform == "linux":
        _die_with_parent()
    return Settings(
        folder=given.dir,
        run_id=given.run_id,
        tree=given.tree,
        listen=given.listen,
        silence_s=given.silence_s,
        lifeline=given.lifeline,
        adopt=given.adopt,
        resume=given.resume,
    )


def _allow_connections() -> None:
    """Descriptors for as many connections as are kept; some systems give a process 1,024, others 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT_MOST + SPEAKING_MOST + DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _die_with_parent() -> None:
    """A stopped process reads no lifeline; the kernel's signal reaches it all the same."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _announce(settings: Settings, ledger: Ledger, door: Door, pair: Pair | None) -> None:
    """Write control.json whole or not at all: who reads it can connect."""
    about = {
        "address": door.address,
        "run_id": settings.run_id,
        "pid": os.getpid(),
        "incarnation": ledger.incarnation,
        "host": socket.gethostname(),
    }
    if pair is not None:
        about["key"] = pair.public
    aside = settings.folder / "control.json.new"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, settings.folder / "control.json")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(main(sys.argv[1:]))
