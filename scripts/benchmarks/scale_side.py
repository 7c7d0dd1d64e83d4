"""`python -m scripts.benchmarks.scale_side ADDRESS PID TREE SECONDS ORDERS`: a crowd of spheres, and what control of
process id PID takes for it. One JSON object on stdout."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence

from control.tree import parse_tree

from .crowd import Crowd, Player, cpu_s, memory_mb
from .processes import die_with_parent

BEAT_S = 1.0
STEP_S = 1.0
SILENCE_S = 10 * BEAT_S
"""A sphere's link beats ten times in it."""
PATIENCE_S = 120.0
PAUSE_S = 0.3
DESCRIPTORS = 12_000


def main(words: Sequence[str]) -> None:
    """Play it all, and print."""
    address, pid, tree = words[0], int(words[1]), words[2]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, DESCRIPTORS), hard), hard))
    crowd = Crowd(address, parse_tree(tree), beat_s=BEAT_S, step_s=STEP_S)
    try:
        print(json.dumps(_measured(crowd, pid, float(words[3]), int(words[4]))))
    finally:
        crowd.close()


def _measured(crowd: Crowd, pid: int, seconds: float, orders: int) -> dict[str, object]:
    told: dict[str, object] = {}
    began_s = cpu_s(pid)
    told["founded_s"] = crowd.until(crowd.all_run, PATIENCE_S, "the first generation")
    told["founding_cpu_s"] = cpu_s(pid) - began_s
    crowd.play(2 * STEP_S)
    version = crowd.version
    at_s, control_s, own_s, frames = time.monotonic(), cpu_s(pid), time.process_time(), crowd.frames
    crowd.play(seconds)
    took_s = time.monotonic() - at_s
    told["cpu_percent"] = 100 * (cpu_s(pid) - control_s) / took_s
    told["crowd_cpu_percent"] = 100 * (time.process_time() - own_s) / took_s
    told["steps"], told["frames_per_s"] = crowd.version - version, (crowd.frames - frames) / took_s
    told["memory_mb"] = memory_mb(pid)
    told["order_s"] = [_ordered(crowd, 1e-3 / (number + 2)) for number in range(orders)]
    tenth = max(len(crowd.players) // 10, 1)
    told["witnessed_s"] = _lost(crowd, 1, witnessed=True)
    told["unwitnessed_s"] = _lost(crowd, 1, witnessed=False)
    told["tenth_s"] = _lost(crowd, tenth, witnessed=True)
    told["memory_at_end_mb"] = memory_mb(pid)
    return told


def _ordered(crowd: Crowd, rate: float) -> float:
    """From an order until control has heard of everybody that it was heard: a question asked after the last
    acknowledgement is answered."""
    crowd.play(PAUSE_S)
    number = max(player.seen for player in crowd.players.values()) + 1
    began_s = time.monotonic()
    crowd.ask("set_learning_rate", rate)
    crowd.until(lambda: all(player.seen >= number for player in crowd.players.values()), PATIENCE_S, "an order")
    request = crowd.ask("nothing")
    crowd.until(lambda: request in crowd.answers, PATIENCE_S, "an answer")
    return time.monotonic() - began_s


def _lost(crowd: Crowd, count: int, *, witnessed: bool) -> float:
    """From the death of so many until all the others compute in a generation without them; then they come back."""
    crowd.play(2 * STEP_S)
    before = crowd.generation
    paths = list(crowd.players)
    dead: list[Player] = crowd.lose(paths[:: max(len(paths) // count, 1)][:count], witnessed=witnessed)
    took_s = crowd.until(lambda: crowd.all_run(before), PATIENCE_S, "a generation after a loss")
    crowd.play(STEP_S)
    before = crowd.generation
    crowd.come_back(dead)
    crowd.until(lambda: crowd.all_run(before), PATIENCE_S, "a generation with successors")
    return took_s


if __name__ == "__main__":
    die_with_parent()
    main(sys.argv[1:])
