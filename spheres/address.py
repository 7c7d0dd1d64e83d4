"""The address at which other spheres reach this one: of the interface that leads to control, or of one that is named.

Spheres dial out to control, so the way to it is known to work; whoever has another network for the sums names it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from control.config import split_address
from lightwatch.errors import ConfigError

FAMILIES = (socket.AF_INET, socket.AF_INET6)


def own_address(control: str, interface: str = "") -> str:
    """Sends nothing. Raises ConfigError: no such interface, one without an address, or no way to control."""
    return _of_interface(interface) if interface else _towards(control)


def network_stack() -> str:
    """Which one this process is on: the kernel's boot and the network namespace. Who shares it is on the same host, and
    reaches what listens there without any network; another container is another host. By name where there is no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()


def every_address() -> list[tuple[str, str]]:
    """(interface, address) of this machine, IPv4 and IPv6; a loopback's too."""
    return [
        (name, each.address.partition("%")[0])
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family in FAMILIES
    ]


def _towards(control: str) -> str:
    """The source address that the system would use on the way to control."""
    host, port = split_address(control)
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        for family, kind, protocol, _, target in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # of a datagram socket: no packet leaves
                return str(probe.getsockname()[0])
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"--control {control}: no way leads there from this machine: {why} [LW508]") from None
    raise ConfigError(f"--control {control}: its name has no address [LW508]")


def _of_interface(name: str) -> str:
    every = psutil.net_if_addrs()
    if name not in every:
        known = ", ".join(sorted(every))
        raise ConfigError(f"--interface {name[:40]!r}: this machine has none of that name; it has {known} [LW508]")
    addresses = [each.address for each in every[name] if each.family in FAMILIES]
    usable = [each for each in addresses if not ipaddress.ip_address(each.partition("%")[0]).is_link_local]
    if not usable:
        raise ConfigError(f"--interface {name}: it has no address that others could reach [LW508]")
    return str(usable[0])
