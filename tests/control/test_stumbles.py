"""What control's own code breaks over costs who said it, never the run: the shipped server, in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue

import pytest

from control.admit import FromMember, admit
from control.client import ControlClient
from control.config import Settings
from control.door import Door
from control.errors import ControlError
from control.events import SphereEvent
from control.ledger import Ledger
from control.protocol import Answer, Ask, Expelled, Row, View
from control.questions import answer
from control.server import Server
from control.state import State
from tests.control.fakes import FakeSphere, begun

pytestmark = pytest.mark.cluster


class Broken(RuntimeError):
    """A fault of control's own."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A control of two spheres that breaks over a row of version 7 and over whoever asks for health."""

    def breaks_over_a_row(state: State, sphere: int, message: FromMember, now_s: float) -> SphereEvent | None:
        if isinstance(message, Row) and message.version == 7:
            raise Broken("a row")
        return admit(state, sphere, message, now_s)

    def breaks_over_a_question(state: State, ask: Ask, now_s: float) -> Answer | None:
        if ask.what == "health":
            raise Broken("a question")
        return answer(state, ask, now_s)

    monkeypatch.setattr("control.server.admit", breaks_over_a_row)
    monkeypatch.setattr("control.clients.answer", breaks_over_a_question)
    found: Queue[Server] = Queue()
    thread = threading.Thread(target=serve, args=(tmp_path, found.put), daemon=True)
    thread.start()
    server = found.get(timeout=10)
    yield server.door.address
    server.sigterm.came = 2  # it ends at once
    thread.join(10)
    assert not thread.is_alive()


def serve(folder: Path, found: Callable[[Server], None]) -> None:
    """Until the run is over."""
    settings = Settings(folder, "run", tree="2", silence_s=2.0)
    with Ledger.open(folder / "ledger.db", "run") as ledger, closing(Door(settings.listen, settings.silence_s)) as door:
        ledger.set("tree", settings.tree)
        server = Server(settings, ledger, door)
        found(server)
        server.run()


@pytest.fixture
def spheres(address: str) -> Iterator[list[FakeSphere]]:
    """Two that compute."""
    made = [FakeSphere(address, path) for path in ("0", "1")]
    try:
        yield begun(lambda *paths: made, "0", "1")
    finally:
        for sphere in made:
            sphere.leave()


def test_a_sphere_over_whose_words_control_breaks_is_thrown_out_and_the_others_go_on(
    address: str, spheres: list[FakeSphere]
) -> None:
    first, second = spheres
    second.row(7)
    assert "control broke: Broken: a row [LW901]" in second.expect(Expelled).text
    assert [member.path for member in first.expect(View).members] == ["0"]
    with ControlClient(address) as client:
        assert (client.status().outcome, len(client.status().spheres)) == ("", 2)


def test_a_client_over_whose_words_control_breaks_is_told_so_and_the_others_are_answered(
    address: str, spheres: list[FakeSphere]
) -> None:
    with ControlClient(address) as client, pytest.raises(ControlError, match=r"Broken: a question \[LW901\]"):
        client.health()
    with ControlClient(address) as client:
        assert client.status().state == "running"
