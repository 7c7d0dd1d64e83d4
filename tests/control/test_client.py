"""The client alone: addresses that are none, and controls that don't answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

from control.client import ControlClient
from control.config import check_listen
from control.errors import AddressError, NoAnswer
from control.process import ControlProcess
from control.protocol import Answer, Ask
from control.wire import decode_at_control, encode


def test_a_silent_address_is_given_up_in_time() -> None:
    """A port that accepts and says nothing, and one where nobody listens: NoAnswer within the deadline + 0.5 s."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        for listens in (False, True):
            if listens:
                silent.listen()
            address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            with ControlClient(address, timeout_s=0.5) as client:
                began = time.monotonic()
                with pytest.raises(NoAnswer, match="did not answer within 0.5 s"):
                    client.status()
                assert 0.5 <= time.monotonic() - began < 1.0


def test_an_order_is_waited_for_also_when_its_first_answer_comes_twice() -> None:
    """A control that was busy has heard the question twice; neither answer says that the order is in force."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def answer() -> None:
        identity, frame = router.recv_multipart()
        ask = decode_at_control(frame)
        assert isinstance(ask, Ask)
        for version in (None, None, 7):
            router.send_multipart([identity, encode(Answer(request=ask.request, ok=True, number=1, version=version))])

    thread = threading.Thread(target=answer)
    thread.start()
    with ControlClient(f"tcp://127.0.0.1:{port}") as client:
        assert client.pause() == 7
    thread.join()
    router.close(0)
    context.term()


@pytest.mark.cluster
def test_a_control_that_falls_silent_is_connected_to_anew(
    control: ControlProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine may be gone, and no packet says so; when it is back, or another is there, it is asked."""
    monkeypatch.setattr("control.client.EVENTS", zmq.EVENT_DISCONNECTED)
    monkeypatch.setattr("control.client.SILENT_S", 0.3)
    with ControlClient(control.address) as client:
        client.status()
        os.kill(control.pid, signal.SIGSTOP)
        try:
            assert client._monitor.poll(10_000)
        finally:
            os.kill(control.pid, signal.SIGCONT)
        assert client.status().state == "initializing"


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://", "tcp://host", "tcp://host:", "tcp://host:x", "tcp://host:0", "tcp://host:65536", "tcp://host:*"),
        *("udp://127.0.0.1:5", "ipc:///tmp/x", "tcp://a b:5", "tcp://127.0.0.1:5/x"),
    ],
)
def test_a_malformed_address_is_an_error_at_once(address: str) -> None:
    """Before any socket is made."""
    with pytest.raises(AddressError, match="address: "):
        ControlClient(address)


def test_a_folder_without_a_control_says_so(tmp_path: Path) -> None:
    """Missing, or not what control wrote."""
    with pytest.raises(AddressError, match=r"no control\.json"):
        ControlClient(tmp_path)
    (tmp_path / "control.json").write_text("{}")
    with pytest.raises(AddressError, match="can't be read"):
        ControlClient(tmp_path)


def test_the_folder_of_a_dead_control_is_no_answer_at_once(tmp_path: Path) -> None:
    """On its own machine its pid tells."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    about = {"address": "tcp://127.0.0.1:9", "pid": child.pid, "host": socket.gethostname()}
    (tmp_path / "control.json").write_text(json.dumps(about))
    with pytest.raises(NoAnswer, match=f"pid {child.pid}"):
        ControlClient(tmp_path)
    (tmp_path / "control.json").write_text(json.dumps(about | {"pid": os.getpid()}))
    ControlClient(tmp_path).close()


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("tcp://127.0.0.1:*", True),
        ("tcp://127.0.0.1:5555", True),
        ("tcp://localhost:*", True),
        ("tcp://[::1]:*", True),
        ("tcp://0.0.0.0:*", False),
        ("tcp://10.0.0.1:5555", False),
        ("tcp://*:5555", False),
        ("tcp://example.org:5555", False),
    ],
)
def test_control_binds_loopback_only(address: str, fine: bool) -> None:
    """Nothing is encrypted yet, so nothing else is bound."""
    if fine:
        check_listen(address)
    else:
        with pytest.raises(AddressError):
            check_listen(address)
