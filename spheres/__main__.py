"""`python -m spheres`: the warm host of one machine's spheres. Imports torch once and forks a worker for each path."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightwatch._beside import check


def main() -> int:
    """Parse the command line, load torch, and watch over the workers until they have ended."""
    parser = argparse.ArgumentParser(prog="python -m spheres", description="Run the spheres of one machine.")
    parser.add_argument("--dir", required=True, type=Path, help="the run's folder")
    parser.add_argument("--control", required=True, help="control's address, tcp://HOST:PORT")
    parser.add_argument("--path", action="append", required=True, help="where a sphere is in the tree; repeatable")
    parser.add_argument("--script", nargs=argparse.REMAINDER, default=[], help="a script, --, its arguments; last")
    parser.add_argument("--no-lifeline", action="store_true", help="stdin is not a launcher's pipe")
    given = parser.parse_args()
    check()
    script = [word for place, word in enumerate(given.script) if (place, word) != (1, "--")]

    from . import worker  # loads torch, before the forks
    from .launch import run_host

    def start(path: str) -> int:
        return worker.main(given.dir, given.control, path, script)

    return run_host(given.path, given.dir, start, lifeline=not given.no_lifeline)


if __name__ == "__main__":
    sys.exit(main())
