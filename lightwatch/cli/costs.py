"""Where a run's time goes, in words: shares, who is waited for, which link is slow, what the levels carried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control.status import Status

NEVER_SHARES = frozenset({"step", "save"})
"""The whole, and what happens outside of steps."""

SHARE_LEAST = 0.005


def spoken_shares(seconds: Mapping[str, float]) -> str:
    """What steps went to, the most first: compute 71%, wait 20%. Empty before the first step."""
    step_s = seconds.get("step", 0.0)
    if step_s <= 0:
        return ""
    parts = sorted(
        ((spent_s / step_s, name) for name, spent_s in seconds.items() if name not in NEVER_SHARES),
        key=lambda part: (-part[0], part[1]),
    )
    return ", ".join(f"{name} {100 * share:.0f}%" for share, name in parts if share >= SHARE_LEAST)


def spoken_wait(path: str, wait_s: float) -> str:
    return f"others wait {spoken_ms(wait_s)} a step for sphere {path}"


def spoken_link(name: str, round_trip_s: float) -> str:
    return f"link {name}: round trip {spoken_ms(round_trip_s)}"


def spoken_level(level: Mapping[str, float | None], versions: int) -> str:
    """A level's `up` and `down`, a step, and `ratio`: how many times the least that was needed; and the `states` that
    were fetched over it in all. Empty without any."""
    up, down, ratio = level.get("up") or 0, level.get("down") or 0, level.get("ratio")
    states = f"{spoken_bytes(level.get('states') or 0)} of states fetched" if level.get("states") else ""
    if not versions or not up + down:
        return f"level {level['level']}: {states}" if states else ""
    ratio_told = f" ({ratio:.2f} times the least)" if ratio is not None else ""
    carried = f"{spoken_bytes(up / versions)} up and {spoken_bytes(down / versions)} down a step"
    return f"level {level['level']}: {carried}{ratio_told}{', ' if states else ''}{states}"


def spoken_trouble(found: Status) -> list[str]:
    """What slows a running tree down: nothing where nothing does."""
    lines = []
    if found.slowest is not None:
        lines.append(spoken_wait(found.slowest.path, found.slowest.wait_s))
    if found.slow_link is not None:
        lines.append(spoken_link(found.slow_link.name, found.slow_link.round_trip_s))
    return lines


def spoken_costs(found: Status) -> list[str]:
    """All that a running tree's steps cost: time, waiting, bytes."""
    shares = spoken_shares(found.recent.seconds)
    versions = max((sphere.totals.versions for sphere in found.spheres), default=0)
    levels = (
        {"level": level.level, "up": level.up, "down": level.down, "ratio": level.ratio, "states": level.states}
        for level in found.totals.traffic
    )
    carried = (spoken_level(level, versions) for level in levels)
    return [
        *([f"time of the newest steps: {shares}"] if shares else []),
        *spoken_trouble(found),
        *filter(None, carried),
    ]


def spoken_ms(seconds: float) -> str:
    """A short time: 0.3 ms, 50 ms, 2.5 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def spoken_bytes(count: float) -> str:
    """Bytes as people read them, in thousands: 19.9 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
