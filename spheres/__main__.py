"""`python -m spheres`: the supervisor of one sphere, or with --no-supervise the sphere itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightwatch._beside import check

from . import launch
from .life import Post
from .supervise import Supervisor

_LOCAL_RANK_HELP = "which of this machine's spheres it is: the number of its GPU (default: the end of its path)"


def main() -> int:
    """Parse the command line, and watch over the worker until it has ended for good."""
    parser = argparse.ArgumentParser(prog="python -m spheres", description="Keep one sphere of a run alive.")
    parser.add_argument("--dir", required=True, type=Path, help="the run's folder")
    parser.add_argument("--control", required=True, help="control's address, tcp://HOST:PORT")
    parser.add_argument("--path", required=True, help="where the sphere is in the tree")
    parser.add_argument("--key", default="", metavar="FILE", help="this machine's key (default: its own for the run)")
    parser.add_argument("--template", default="", help="the socket of a template; without, one is started")
    parser.add_argument("--shown", action="store_true", help="report what the worker prints")
    parser.add_argument("--no-lifeline", action="store_true", help="stdin is not a launcher's pipe")
    parser.add_argument("--no-supervise", action="store_true", help="be the worker, and end with it")
    parser.add_argument("--profile", action="store_true", help="the sphere writes profile/<path>.json into the folder")
    parser.add_argument("--local-rank", type=int, metavar="N", help=_LOCAL_RANK_HELP)
    parser.add_argument("--script", help="a script to run instead of the main job; its arguments follow, so it is last")
    words = sys.argv[1:]
    at = words.index("--script") + 2 if "--script" in words else len(words)
    given, script = parser.parse_args(words[:at]), words[at - 1 :] if at <= len(words) and "--script" in words else []
    if not given.no_lifeline:
        launch.follow_launcher()
    check()
    if given.no_supervise:
        from . import worker  # loads torch

        return worker.main(
            given.dir,
            given.control,
            given.path,
            script,
            profile=given.profile,
            key=given.key,
            local_rank=given.local_rank,
        )
    post = Post(
        given.dir,
        given.control,
        given.path,
        given.template,
        tuple(script),
        profile=given.profile,
        shown=given.shown,
        key=given.key,
        local_rank=given.local_rank,
    )
    return Supervisor(post, lifeline=not given.no_lifeline).run()


if __name__ == "__main__":
    sys.exit(main())
