"""`scripts/bench`: the command line, the rows in order, the table and bench.json."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightwatch.files import write_whole

from . import bookkeeping, checkpoint, clients, ddp_tree, gpu, scale, start, sums, thin_link
from .figures import ENOUGH_RUNS, ENOUGH_STEPS, Figure, NotRun, as_json, table
from .machine import machine
from .plan import Plan
from .processes import Cannot

ROWS: dict[int, Callable[[Plan], list[Figure]]] = {
    1: bookkeeping.measure,
    2: sums.measure,
    3: ddp_tree.measure,
    4: thin_link.measure,
    5: checkpoint.measure,
    6: scale.measure,
    7: start.measure,
    8: clients.measure,
    9: gpu.measure,
}

BUSY = 0.5

DESCRIPTION = """\
Measure how fast lightwatch is, and hold the figures against their bars.

  1  the Trainer's own bookkeeping over a bare loop: microseconds a step, and as a share of a longer step
  2  exact sums against float sums, one process
  3  2 spheres against torch's DDP with 2 processes: same model, data, global batch, threads
  4  2 x 2 spheres on two hosts with a link of 200 Mbit/s against DDP with 4 processes: step time, bytes over the link
     (network namespaces, so root, and `ip` and `tc` of Debian's iproute2; Linux)
  5  checkpoints of one process: how long a save holds the training up beyond one copy of the state, beside DCP's
     async_save and torch.save; how fast it writes, against `dd` with fsync
  6  control with 10 to 5,000 simulated spheres, one report and one heartbeat a second each: its processor time and
     memory, an order to all acknowledged, a new generation after losses (Linux)
  7  start: `lightwatch --help`, control ready, `lightwatch train` with 4 spheres to its first step
  8  control while 50 clients ask for `status` once a second each and one reads 10,000 events within a minute: its share
     of a core, and a step of 2 spheres that train against one without those clients
  9  on a GPU: exact sums against float sums, deterministic algorithms against a bare loop, bf16 against float32


Ours and the peer run in turns on the same work, in fresh processes of one thread. A figure is the median over the
runs, with the least and the greatest of them; a bar holds for the median. A row that can't run here is listed with the
reason. All rows take some half an hour: let nothing else run meanwhile."""


def main(words: list[str]) -> int:
    """Measure, print the table, write bench.json. 0: all was measured (bars met or not), 1: a row was not, 2: usage."""
    given = _parser().parse_args(words)
    rows = given.rows or sorted(ROWS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # so that whatever was started is ended
    figures: list[Figure] = []
    not_run: list[NotRun] = []
    facts = machine()
    _tell(", ".join(f"{name} {value}" for name, value in facts.items()))
    if facts["load"] > BUSY:
        _tell(f"the machine is busy (load {facts['load']}): figures will be off, those of short steps most")
    with tempfile.TemporaryDirectory(prefix="lightwatch-bench-") as folder:
        plan = Plan(given.runs, given.steps, given.peers, Path(folder), _tell)
        for row in rows:
            try:
                figures += ROWS[row](plan)
            except Cannot as reason:
                not_run.append(NotRun(row, str(reason)))
                _tell(f"row {row}: not run: {reason}")
            write_whole(given.out, _report(facts, plan, figures, not_run))
    print(table(figures, not_run))
    if plan.runs < ENOUGH_RUNS or plan.steps < ENOUGH_STEPS:
        print(f"For a look only: figures are of at least {ENOUGH_RUNS} runs of at least {ENOUGH_STEPS} steps.")
    return 1 if not_run else 0


def _report(facts: dict[str, Any], plan: Plan, figures: Sequence[Figure], not_run: Sequence[NotRun]) -> bytes:
    report = {
        "machine": facts,
        "runs": plan.runs,
        "steps": plan.steps,
        "enough": plan.runs >= ENOUGH_RUNS and plan.steps >= ENOUGH_STEPS,
        "figures": [as_json(figure) for figure in figures],
        "not_run": [{"row": each.row, "why": each.why} for each in not_run],
        "load_at_end": round(os.getloadavg()[0], 2),
    }
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("rows", metavar="ROW", nargs="*", type=_row, help="which rows (default: all)")
    parser.add_argument("--runs", type=_count, default=ENOUGH_RUNS, help="runs of each side (default: %(default)s)")
    parser.add_argument("--steps", type=_count, default=ENOUGH_STEPS, help="measured in a run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where it goes (default: %(default)s)")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="row 1 also with Accelerate and Lightning, each put by pip into an environment of its own, .venv.NAME",
    )
    return parser


def _row(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) in ROWS:
        return int(text)
    raise argparse.ArgumentTypeError(f"there is no row {text!r} to measure; there are {', '.join(map(str, ROWS))}")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 10**6:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
