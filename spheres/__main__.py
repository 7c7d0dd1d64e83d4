"""`python -m spheres`: the supervisor of one sphere, or with --no-supervise the sphere itself.

By hand, under torchrun, or from a launcher. Whoever names no run folder gets one, with what control tells of the run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from lightwatch._beside import check

from . import launch
from .post import Post
from .supervise import Supervisor
from .torchrun import host_path, slot

USAGE = 2
CONTROL_MOST_S = 120.0
"""How long a control may take to be there, since whoever boots machines starts all of them at once."""

_LOCAL_RANK_HELP = "which of this machine's spheres it is: the number of its GPU (default: the end of its path)"


def main() -> int:
    """Parse the command line, and watch over the worker until it has ended for good."""
    parser = _parser()
    words = sys.argv[1:]
    at = words.index("--script") + 2 if "--script" in words else len(words)
    given, script = parser.parse_args(words[:at]), words[at - 1 :] if at <= len(words) and "--script" in words else []
    if bool(given.join) == bool(given.control):
        parser.error("give --control ADDRESS or --join LINE")
    has_launcher = bool(given.template) and not given.no_lifeline
    if has_launcher:
        launch.follow_launcher()
    check()
    control = _control_beside(given)
    try:
        post = _post(given, script)
    except _mistakes() as error:
        from lightwatch.errors import coded

        print(coded(f"spheres: {error}", "LW602"), file=sys.stderr)
        return USAGE
    if given.no_supervise:
        from . import worker  # loads torch

        return worker.main(post)
    code = Supervisor(post, lifeline=has_launcher).run()
    return code if control is None else control.wait() or code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spheres", description="Keep one sphere of a run alive.")
    parser.add_argument("--control", default="", help="control's address, tcp://HOST:PORT")
    parser.add_argument("--join", default="", metavar="LINE", help="a join line in its place: enrols this machine")
    parser.add_argument("--key", default="", metavar="FILE", help="this machine's key (default: its own for the run)")
    parser.add_argument("--at", default="", metavar="PATH", help="this machine's place in the tree, like eu/lab-3")
    parser.add_argument("--path", default="", help="the sphere's (default: --at, and the local rank behind it)")
    parser.add_argument("--interface", default="", metavar="IF", help="by which other spheres reach this one")
    parser.add_argument("--data", default="", metavar="PATH", help="where the data is on this machine")
    parser.add_argument("--dir", default="", help="a folder for the run (default: runs/RUN)")
    parser.add_argument("--with-control", metavar="DIR", default="", help="rank 0 starts the run's control in DIR too")
    parser.add_argument("--config", metavar="FILE", default="", help="of the run that --with-control begins")
    parser.add_argument("--template", default="", help="the socket of a launcher's template; without, one is started")
    parser.add_argument("--shown", action="store_true", help="report what the worker prints")
    parser.add_argument("--no-lifeline", action="store_true", help="stdin is not a launcher's pipe")
    parser.add_argument("--no-supervise", action="store_true", help="be the worker, and end with it")
    parser.add_argument("--profile", action="store_true", help="the sphere writes profile/<path>.json into the folder")
    parser.add_argument("--local-rank", type=int, metavar="N", help=_LOCAL_RANK_HELP)
    parser.add_argument("--script", help="a script to run instead of the main job; its arguments follow, so it is last")
    return parser


def _post(given: argparse.Namespace, script: list[str]) -> Post:
    """What the supervisor is for; a folder that is not a run's yet is made one."""
    path = given.path or f"{given.at or host_path(os.environ)}/{slot(os.environ)}"
    folder, control, key = Path(given.dir), given.control, given.key
    if not (given.dir and control and (folder / "config.toml").exists()):
        from .entry import enter, enter_by_line

        if given.join:
            entry = enter_by_line(given.join, given.dir, given.data, CONTROL_MOST_S)
        else:
            entry = enter(given.control, given.key, given.dir, given.data, CONTROL_MOST_S)
        folder, control, key = entry.folder, entry.control, entry.key
    return Post(
        folder,
        control,
        path,
        given.template,
        tuple(script),
        profile=given.profile,
        shown=given.shown,
        key=key,
        interface=given.interface,
        local_rank=given.local_rank,
    )


def _control_beside(given: argparse.Namespace) -> subprocess.Popen[bytes] | None:
    """With --with-control, at rank 0: the run's control, for as many spheres as there are processes. It stays until
    the run is over, whatever becomes of this sphere."""
    if not given.with_control or os.environ.get("RANK", "0") != "0":
        return None
    command = [sys.executable, "-P", "-m", "lightwatch", "up", "--dir", given.with_control, "--listen", given.control]
    command += ["--wait-for", os.environ.get("WORLD_SIZE", "1"), "--machines", "0"]
    command += ["--config", given.config] if given.config else []
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def _mistakes() -> tuple[type[Exception], ...]:
    """What is said in a sentence: the user's, or the network's."""
    from control.errors import ControlError
    from lightwatch.errors import LightwatchError

    return (ControlError, LightwatchError, OSError)


if __name__ == "__main__":
    sys.exit(main())
