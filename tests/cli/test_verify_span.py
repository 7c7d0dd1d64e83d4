"""Which versions `lightwatch verify` makes again, and what a terminal shows meanwhile."""

from __future__ import annotations

import io

import pytest

from lightwatch.cli.terminal import Terminal
from lightwatch.cli.verify import Ticker, span_of, spoken_tick
from lightwatch.errors import ConfigError


def test_a_sample_is_the_first_versions() -> None:
    assert span_of(None, None, 180) == (0, 20) and span_of(None, None, 7) == (0, 7)
    assert span_of(None, 50, 180) == (0, 50) and span_of(None, 0, 180) is None
    assert span_of((3, 9), None, 180) == (3, 9)
    with pytest.raises(ConfigError, match="got 3:181"):
        span_of((3, 181), None, 180)


def test_a_replay_shows_how_long_it_will_take_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere not a byte."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    now_s = iter([0.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now_s))
    ticker = Ticker(Terminal())
    ticker.last = 10
    for made in (1, 2, 3):
        ticker.tick(made)
    ticker.close()
    assert spoken_tick(2, 10, 8.0) in screen.getvalue() and "version 3/10, 7 s left" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")
    silent = io.StringIO()
    monkeypatch.setattr("sys.stdout", silent)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    Ticker(Terminal()).tick(3)
    assert silent.getvalue() == ""
