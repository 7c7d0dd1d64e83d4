"""`python -m spheres`: the warm host of one machine's spheres. Imports torch once and forks a worker for each path."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightwatch._beside import check

from . import launch


def main() -> int:
    """Parse the command line, load torch, and watch over the workers until they have ended."""
    parser = argparse.ArgumentParser(prog="python -m spheres", description="Run the spheres of one machine.")
    parser.add_argument("--dir", required=True, type=Path, help="the run's folder")
    parser.add_argument("--control", required=True, help="control's address, tcp://HOST:PORT")
    parser.add_argument("--path", action="append", required=True, help="where a sphere is in the tree; repeatable")
    parser.add_argument("--no-lifeline", action="store_true", help="stdin is not a launcher's pipe")
    parser.add_argument("--profile", action="store_true", help="each sphere writes profile/<path>.json into the folder")
    parser.add_argument("--script", help="a script to run instead of the main job; its arguments follow, so it is last")
    words = sys.argv[1:]
    at = words.index("--script") + 2 if "--script" in words else len(words)
    given, script = parser.parse_args(words[:at]), words[at - 1 :] if at <= len(words) and "--script" in words else []
    if not given.no_lifeline:
        launch.follow_launcher()
    check()

    from . import worker  # loads torch, before the forks

    def start(path: str) -> int:
        return worker.main(given.dir, given.control, path, script, profile=given.profile)

    return launch.run_host(given.path, given.dir, start, lifeline=not given.no_lifeline)


if __name__ == "__main__":
    sys.exit(main())
