"""The address by which others reach a sphere: by the way to control, or of the interface that is named."""

from __future__ import annotations

import socket
from collections import namedtuple

import psutil  # type: ignore[import-untyped]
import pytest

from lightwatch.errors import ConfigError
from spheres.address import own_address


def test_it_is_where_the_way_to_control_begins() -> None:
    """Nothing is sent: nobody listens there."""
    assert own_address("tcp://127.0.0.1:9") == "127.0.0.1"
    assert own_address("tcp://127.0.0.9:9") == "127.0.0.1"


def test_a_named_interface_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first address that leads off the link; the way to control says nothing then."""
    address = namedtuple("address", "family address netmask broadcast ptp")
    monkeypatch.setattr(
        psutil,
        "net_if_addrs",
        lambda: {
            "lo": [address(socket.AF_INET, "127.0.0.1", None, None, None)],
            "wg0": [
                address(socket.AF_INET6, "fe80::1%wg0", None, None, None),
                address(socket.AF_INET, "10.9.0.3", None, None, None),
            ],
            "down0": [address(socket.AF_INET6, "fe80::2%down0", None, None, None)],
        },
    )
    assert own_address("tcp://127.0.0.1:9", "wg0") == "10.9.0.3"
    with pytest.raises(ConfigError, match=r"no address.*\[LW508\]"):
        own_address("tcp://127.0.0.1:9", "down0")
    with pytest.raises(ConfigError, match=r"it has down0, lo, wg0 \[LW508\]"):
        own_address("tcp://127.0.0.1:9", "eth7")


def test_a_name_that_nobody_knows_is_said() -> None:
    with pytest.raises(ConfigError, match=r"nobody\.invalid.*\[LW508\]"):
        own_address("tcp://nobody.invalid:9")
