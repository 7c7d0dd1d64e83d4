"""What every test counts on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell without job control starts what it puts into the background with SIGINT ignored, and children inherit that:
# the tests that send Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Replay one run of tests/simulation."""
    parser.addoption("--sim-seed", metavar="N", help="tests/simulation: play this seed, and tell its story")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one: a bare Trainer's checkpoints lie under it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
