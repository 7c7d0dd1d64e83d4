"""What a client's end makes of its handshakes."""

from __future__ import annotations

import pytest

from control.handshakes import DENIED, HUNG_UP, MADE, NOT_ALLOWED, UNLIKE, WANTS_A_KEY, WANTS_ANOTHER, Handshakes


def seen(*events: int, keyed: bool = True) -> Handshakes:
    handshakes = Handshakes(keyed=keyed, tries=3)
    for event in events:
        handshakes.note(event)
    return handshakes


@pytest.mark.parametrize(
    ("events", "keyed", "why", "over"),
    [
        ([], True, "", False),
        ([MADE], True, "", False),
        ([DENIED], True, NOT_ALLOWED, True),
        ([MADE, DENIED], True, NOT_ALLOWED, True),
        ([UNLIKE], False, WANTS_A_KEY, True),
        ([HUNG_UP, HUNG_UP], False, WANTS_A_KEY, False),
        ([HUNG_UP, HUNG_UP, HUNG_UP], True, WANTS_ANOTHER, True),
        ([MADE, HUNG_UP, HUNG_UP, HUNG_UP, HUNG_UP], True, "", False),
        ([HUNG_UP, HUNG_UP, MADE, HUNG_UP], True, "", False),
    ],
)
def test_who_is_turned_away_is_told_why_and_waits_no_longer(
    events: list[int], keyed: bool, why: str, over: bool
) -> None:
    """Being hung up on now and then is no refusal, and none once control took the key: it may start anew."""
    handshakes = seen(*events, keyed=keyed)
    assert (handshakes.why_refused(), handshakes.are_over()) == (why, over)
