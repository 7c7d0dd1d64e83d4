"""Which place a process of torchrun's has, by its environment."""

from __future__ import annotations

import socket

import pytest
from torch.distributed.launcher.api import LaunchConfig

from control.tree import check_path_of_sphere
from spheres.supervise import DRAIN_S
from spheres.torchrun import host_path, slot

ONE_OVER_TWO = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_RANK": "3", "RANK": "7", "WORLD_SIZE": "8"}
ONE_EACH = {"GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}


def test_a_torchrun_over_several_machines_numbers_them() -> None:
    assert (host_path(ONE_OVER_TWO), slot(ONE_OVER_TWO)) == ("node-1", "3")


@pytest.mark.parametrize("environment", [ONE_EACH, {}])
def test_a_torchrun_of_this_machine_alone_or_none_names_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine's is number 0, so a number would be everybody's."""
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-3.example.org")
    assert host_path(environment) == "lab-3.example.org"
    assert slot(environment) == environment.get("LOCAL_RANK", "0")


@pytest.mark.parametrize("name", ["Zoë\u2019s PC", "..", "", "-", "x" * 200, "a/b", "ünï"])
def test_any_name_of_a_host_makes_a_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    check_path_of_sphere(f"{host_path({})}/{slot({})}")


def test_torchrun_waits_for_longer_than_leaving_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It kills what has not ended so long after it was signalled itself."""
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    waits_s = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout
    assert waits_s is not None and waits_s > DRAIN_S
