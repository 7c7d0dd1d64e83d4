"""Reading a profile back, as a viewer would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """A complete event, in microseconds, on the lane with this name; its end as a viewer computes it."""

    lane: str
    name: str
    begin: float
    end: float

    def holds(self, other: Span) -> bool:
        return self.begin <= other.begin and other.end <= self.end


def spans_of(file: Path) -> list[Span]:
    """All spans, in the file's order; every lane has a name, and on each they stand in a row or nested."""
    events = json.loads(file.read_text())["traceEvents"]
    assert len({event["pid"] for event in events}) == 1
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    found = [
        Span(lanes[event["tid"]], event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event["ph"] == "X"
    ]
    for lane in lanes.values():
        around: list[Span] = []
        for span in (each for each in found if each.lane == lane):
            while around and around[-1].end <= span.begin:
                around.pop()
            assert span.begin <= span.end and (not around or around[-1].holds(span)), (around[-1:], span)
            around.append(span)
    return found


def steps_of(spans: list[Span]) -> Iterator[tuple[str, list[Span]]]:
    """Each step's name, and what was begun in it on any lane."""
    for step in [span for span in spans if span.name.startswith("step ")]:
        yield step.name, [span for span in spans if step.holds(span) and span is not step]
