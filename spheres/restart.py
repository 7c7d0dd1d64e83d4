"""When something that ended is started anew: one rule for workers, supervisors, the template and control."""

from __future__ import annotations

LIVES_MOST = 5
"""Lives in a row that came to nothing; then it is given up."""
FIRST_PAUSE_S = 0.1

DONE, FAILED, USAGE = FINAL = (0, 1, 2)
"""Exit codes that end a worker for good: it is done, or has told control why the run can't go on."""
ANEW = 75
"""The exit code of a worker that asks for another life: it was thrown out, its memory is sick, its link broke."""
TERMINATED = 76
"""The exit code of a worker that is to have no successor, by order; to whoever waits for its supervisor it is done."""


def next_life(in_vain: int, *, made: bool) -> tuple[int, float | None]:
    """How many lives in a row came to nothing by now, and seconds until the next one begins; None: no other.

    in_vain: as it was before the life that has just ended. made: whether a version was made in that life. The first
    pause is none, the others double: who is killed once is back at once, who can't live costs little.
    """
    in_vain = 0 if made else in_vain + 1
    if in_vain >= LIVES_MOST:
        return in_vain, None
    return in_vain, FIRST_PAUSE_S * 2 ** (in_vain - 2) if in_vain > 1 else 0.0
